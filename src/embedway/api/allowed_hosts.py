"""Refuse requests under names that are not ours.

A web page whose name its owner points at 127.0.0.1 (DNS rebinding) is of the server's origin to the browser, so that no
CORS rule stops it; only the name in `Host` gives it away.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from typing import TYPE_CHECKING

from embedway.api.error_response import error_response
from embedway.api.headers import header
from embedway.errors import HostNotAllowed

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

ANY = "*"
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")


class HostNames:
    """Names and addresses without ports, in small letters, or *.NAME."""

    def __init__(self, hosts: Collection[str]) -> None:
        self._exact = frozenset(host for host in hosts if not host.startswith("*."))
        self._endings = tuple(host[1:] for host in hosts if host.startswith("*."))

    def __contains__(self, host: str) -> bool:
        """Whether a `Host` is one of them."""
        name = name_of(host)
        return name in self._exact or (bool(self._endings) and name.endswith(self._endings))


class AllowedHosts:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, *, hosts: HostNames) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given = header(scope, b"host") or ""
            if given not in self._hosts:
                await error_response(HostNotAllowed(host=given))(scope, receive, send)
                return
        await self._app(scope, receive, send)


def name_of(host: str) -> str:
    """A `Host` without its port, the brackets of an IPv6 address and the dot at the end of a full name."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return name.rstrip(".").lower()


def hosts_to_allow(given: Collection[str], listening_on: str) -> HostNames | None:
    """What `--allowed-hosts` says; without it the loopback's names where only that is listened on. None: any."""
    if ANY in given:
        return None
    if given:
        return HostNames([host.lower() if is_ipv6(host) else name_of(host) for host in given])
    return HostNames([*LOOPBACK_HOSTS, listening_on.lower()]) if is_loopback(listening_on) else None


def is_ipv6(host: str) -> bool:
    """Whether it is a bare one, whose colons lead to no port."""
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
