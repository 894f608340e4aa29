"""MediaUrl: an http(s) URL, taken apart once, so that what is checked is what is asked."""

from __future__ import annotations

from dataclasses import dataclass

import httpx

from embedway.media.addresses import InvalidHost, canonical_host

DEFAULT_PORTS = {"http": 80, "https": 443}


class InvalidUrl(ValueError):
    """No http(s) URL that may be asked; says why, without its text."""


@dataclass(frozen=True, slots=True)
class MediaUrl:
    text: str
    """As it was given: redirects are relative to it"""
    scheme: str
    host: str
    """As `canonical_host` writes it"""
    port: int
    target: bytes
    """Path and query, percent-encoded"""

    @property
    def authority(self) -> str:
        """For the header `Host`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def join(self, location: str) -> MediaUrl:
        """Where a redirect leads. Raises InvalidUrl."""
        try:
            joined = str(httpx.URL(self.text).join(location))
        except (httpx.InvalidURL, ValueError) as error:
            raise InvalidUrl("is not a valid URL") from error
        return parse_url(joined)


def parse_url(text: str) -> MediaUrl:
    """Raises InvalidUrl."""
    try:
        url = httpx.URL(text)
        host = canonical_host(url.raw_host.decode("ascii"))
    except InvalidHost as error:
        raise InvalidUrl(str(error)) from error
    except (httpx.InvalidURL, ValueError) as error:  # ValueError: lone surrogates, unknown to httpx
        raise InvalidUrl("is not a valid URL") from error
    if url.scheme not in DEFAULT_PORTS:
        raise InvalidUrl("is not an http or https URL")
    if url.userinfo:
        raise InvalidUrl("has a user or password in its URL")
    port = DEFAULT_PORTS[url.scheme] if url.port is None else url.port
    if not 1 <= port <= 65535:
        raise InvalidUrl("has no valid port")
    return MediaUrl(text, url.scheme, host, port, url.raw_path)
