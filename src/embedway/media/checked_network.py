"""Connections to checked addresses only: a network backend for httpcore's connection pool."""

# ruff: noqa: ASYNC109 - httpcore's interface has timeouts as parameters
from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Executor
from typing import TypeAlias

import anyio
import httpcore

from embedway.media.addresses import is_public, parse_address

Resolver: TypeAlias = Callable[[str, int], Awaitable[list[str]]]
"""(host's name, port) → its addresses, the best first; raises OSError where it has none"""

ATTEMPT_SECONDS = 2.0
"""Before the next address of a host is tried: one that drops packets must not take all the time there is"""


class UnknownHost(Exception):
    """The name has no address."""


class ForbiddenAddress(Exception):
    """The host has an address that is not public."""


class CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Looks a name up once, checks all its addresses, and connects to one of these: no second lookup can differ.

    The pool above still knows the host by its name, so that TLS is verified against the name, and a connection is used
    again for that name only. Asking for the address itself, with `Host` and `sni_hostname`, would share connections
    among all names of one address, each verified for the first of them only.
    """

    def __init__(self, resolve: Resolver, *, public_only: bool) -> None:
        self._resolve = resolve
        self._public_only = public_only
        self._network: httpcore.AsyncNetworkBackend = httpcore.AnyIOBackend()  # ty: ignore[invalid-assignment] - has a stand-in

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Raises UnknownHost, ForbiddenAddress, or httpcore's ConnectError or ConnectTimeout for the last address."""
        *others, last = await self._checked_addresses(host, port)
        rest = (local_address, socket_options)
        for address in others:
            with contextlib.suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return OwnedStream(await self._network.connect_tcp(address, port, ATTEMPT_SECONDS, *rest))
        return OwnedStream(await self._network.connect_tcp(last, port, timeout, *rest))

    async def sleep(self, seconds: float) -> None:
        await self._network.sleep(seconds)

    async def _checked_addresses(self, host: str, port: int) -> list[str]:
        """One address that is not public refuses them all: who mixes them is up to something."""
        addresses = [host] if parse_address(host) is not None else await self._look_up(host, port)
        if self._public_only and not all(_is_public(address) for address in addresses):
            raise ForbiddenAddress
        return addresses

    async def _look_up(self, host: str, port: int) -> list[str]:
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise UnknownHost from error
        if not addresses:
            raise UnknownHost
        return addresses


class OwnedStream(httpcore.AsyncNetworkStream):
    """A connection that is closed where its TLS handshake is given up.

    httpcore's own is left open there, and held by the event loop, so that each silent host would cost a descriptor.
    """

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        try:
            return await self._stream.start_tls(ssl_context, server_hostname, timeout)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._stream.aclose()
            raise

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)


def _is_public(text: str) -> bool:
    address = parse_address(text)
    return address is not None and is_public(address)


def system_resolver(executor: Executor) -> Resolver:
    """The system's, in threads of `executor`: one lookup may take many seconds, and cannot be interrupted."""

    async def resolve(host: str, port: int) -> list[str]:
        def look_up() -> list[str]:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))

        return await asyncio.get_running_loop().run_in_executor(executor, look_up)

    return resolve
