"""HTTPS: the settings' files → an SSL context, or one sentence about the file at fault."""

from __future__ import annotations

import ssl
from pathlib import Path

from embedway.config import Settings
from embedway.errors import InvalidSetting


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """None without a certificate: HTTP. Raises InvalidSetting."""
    if settings.ssl_certfile is None:
        for name in ("ssl_keyfile", "ssl_keyfile_password", "ssl_ca_certs"):
            if getattr(settings, name) is not None:
                raise InvalidSetting(
                    setting="--" + name.replace("_", "-"), problem="is of no use without --ssl-certfile"
                )
        return None
    for name in ("ssl_certfile", "ssl_keyfile", "ssl_ca_certs"):
        _check_readable(getattr(settings, name), "--" + name.replace("_", "-"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_certificate(context, settings)
    if settings.ssl_ca_certs is not None:
        _ask_clients(context, settings.ssl_ca_certs)
    return context


def _check_readable(path: Path | None, flag: str) -> None:
    if path is not None:
        try:
            path.open("rb").close()
        except OSError as error:
            raise InvalidSetting(setting=flag, problem=f"{path} cannot be read: {error.strerror}") from error


def _load_certificate(context: ssl.SSLContext, settings: Settings) -> None:
    secret = settings.ssl_keyfile_password
    password = "" if secret is None else secret.get_secret_value()  # None would ask on the terminal
    assert settings.ssl_certfile is not None
    try:
        context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile, lambda: password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        files = " and ".join(str(path) for path in (settings.ssl_certfile, settings.ssl_keyfile) if path is not None)
        problem = f"{files} are no certificate and its key, or --ssl-keyfile-password is not the key's"
        raise InvalidSetting(setting="--ssl-certfile", problem=problem) from error


def _ask_clients(context: ssl.SSLContext, authorities: Path) -> None:
    try:
        context.load_verify_locations(authorities)
    except OSError as error:
        raise InvalidSetting(setting="--ssl-ca-certs", problem=f"{authorities} has no certificates as PEM") from error
    context.verify_mode = ssl.CERT_REQUIRED
