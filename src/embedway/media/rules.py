"""MediaRules: what the operator lets requests read. The settings' group "Images and videos", as this room needs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from embedway.errors import InvalidSetting
from embedway.media.addresses import InvalidHost, canonical_host, parse_address


@dataclass(frozen=True, slots=True)
class AllowedDomain:
    """An entry of `--allowed-media-domains`: a name, an address, or all names below one; at one port or at any."""

    host: str
    """As `canonical_host` writes it"""
    with_subdomains_only: bool = False
    """`*.host`: the names below `host`, not itself"""
    port: int | None = None

    def allows(self, host: str, port: int) -> bool:
        if self.port not in (None, port):
            return False
        return host.endswith("." + self.host) if self.with_subdomains_only else host == self.host


@dataclass(frozen=True, slots=True)
class MediaRules:
    allowed_domains: tuple[AllowedDomain, ...]
    """Where there are any, no other host is asked; and these may be private: whatever address they have is taken"""
    allows_remote: bool
    local_roots: tuple[Path, ...]
    """Folders whose files may be read"""
    max_bytes: int
    """Of one image or video, as a file"""
    timeout_seconds: float
    """For fetching one, redirects and all; without the wait for its turn"""

    def allows_host(self, host: str, port: int) -> bool:
        """Whether a host, as `canonical_host` writes it, may be asked; its addresses are another question."""
        return not self.allowed_domains or any(domain.allows(host, port) for domain in self.allowed_domains)


def read_allowed_domains(entries: Sequence[str]) -> tuple[AllowedDomain, ...]:
    """`HOST`, `HOST:PORT`, `*.HOST`, `*.HOST:PORT`; an IPv6 address with a port is in brackets.

    Raises InvalidSetting.
    """
    return tuple(_read_allowed_domain(entry) for entry in entries)


def _read_allowed_domain(entry: str) -> AllowedDomain:
    name, port = _split_port(entry.strip())
    below = name.startswith("*.")
    try:
        host = canonical_host(name[2:] if below else name)
    except InvalidHost as error:
        raise _invalid(entry, str(error)) from error
    if below and parse_address(host) is not None:
        raise _invalid(entry, "has an address, which has no subdomains")
    return AllowedDomain(host, below, port)


def _split_port(entry: str) -> tuple[str, int | None]:
    name, colon, port = entry.rpartition(":")
    if not colon or entry.endswith("]") or (":" in name and not name.endswith("]")):  # an IPv6 address by itself
        return entry, None
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise _invalid(entry, "has no valid port")
    return name, int(port)


def _invalid(entry: str, problem: str) -> InvalidSetting:
    return InvalidSetting(
        setting="--allowed-media-domains",
        problem=f"{entry!r} {problem}; give a name, an address or *.NAME, perhaps with :PORT, and no scheme or path",
    )
