"""Where the requests go: a URL as an operator writes it → host, path, TLS, headers."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

from embedway.errors import InvalidSetting

EMBEDDINGS, MODELS = "/embeddings", "/models"


@dataclass(frozen=True, slots=True)
class Target:
    scheme: str
    host: str
    port: int
    path: str
    """Of the route to embeddings"""
    api_key: str | None

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def models_path(self) -> str:
        return self.path.removesuffix(EMBEDDINGS) + MODELS

    def tls_context(self) -> ssl.SSLContext | None:
        return ssl.create_default_context() if self.scheme == "https" else None

    def head(self, method: str, path: str, further: str = "") -> bytes:
        """A request's, with the empty line; `further` are header lines."""
        key = f"Authorization: Bearer {self.api_key}\r\n" if self.api_key else ""
        line = f"{method} {path} HTTP/1.1\r\nHost: {self.authority}\r\nAccept: application/json\r\n"
        return f"{line}{further}{key}\r\n".encode()


def read_target(url: str, api_key: str | None) -> Target:
    """`url` is a server (`http://host:30000`), OpenAI's base URL (`https://host/v1`) or the route itself.

    Raises InvalidSetting.
    """
    whole = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(whole)
        port = parts.port
    except ValueError as error:
        raise InvalidSetting(setting="URL", problem=f"{url!r} is none: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or not is_plain(whole):
        raise InvalidSetting(setting="URL", problem=f"{url!r} is no http:// or https:// address")
    if api_key is not None and not is_plain(api_key):
        raise InvalidSetting(setting="--api-key", problem="it has spaces or characters that no header may have")
    path = parts.path.rstrip("/") or "/v1"
    return Target(
        scheme=parts.scheme,
        host=parts.hostname,
        port=port or (443 if parts.scheme == "https" else 80),
        path=path if path.endswith(EMBEDDINGS) else path + EMBEDDINGS,
        api_key=api_key,
    )


def is_plain(text: str) -> bool:
    """Whether it can stand in the head of a request."""
    return text.isascii() and text.isprintable() and " " not in text
