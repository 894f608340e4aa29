"""TLS connections are counted, and timed, from their first moment."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncGenerator
from typing import cast

import pytest

from certificates import make_certificate
from embedway.api.server import run
from embedway.api.tls_server import TlsServer


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    folder = tmp_path_factory.mktemp("tls")
    make_certificate(folder / "server.pem", folder / "server.key")
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(folder / "server.pem", folder / "server.key")
    return made


class Greeter(asyncio.Protocol):
    """Says hello to each client, and keeps the connections up to date."""

    def __init__(self, connections: set[Greeter]) -> None:
        self._connections = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connections.add(self)
        cast("asyncio.Transport", transport).write(b"hello")

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)


@contextlib.asynccontextmanager
async def serving(
    context: ssl.SSLContext, *, max_connections: int = 100, handshake_timeout: float = 60.0
) -> AsyncGenerator[int]:
    """The port."""
    connections: set[Greeter] = set()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = TlsServer(
            listening,
            context,
            lambda: Greeter(connections),
            connections=connections,
            max_connections=max_connections,
            handshake_timeout=handshake_timeout,
        )
        server.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.close()
            await asyncio.sleep(0)


def greeted(port: int) -> bool:
    """Whether a client is welcome."""
    anyone = ssl.create_default_context()
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
    with contextlib.suppress(OSError), silent(port) as client, anyone.wrap_socket(client) as secured:
        return secured.recv(5) == b"hello"
    return False


def silent(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def is_ended(client: socket.socket) -> bool:
    """Wait for it."""
    with contextlib.suppress(ConnectionError):
        return client.recv(1) == b""
    return True


def test_a_handshake_has_a_time_in_which_to_end(context: ssl.SSLContext) -> None:
    async def use() -> None:
        async with serving(context, handshake_timeout=0.05) as port:
            with silent(port) as client:
                assert await asyncio.to_thread(is_ended, client)
        async with serving(context) as port:
            assert await asyncio.to_thread(greeted, port)

    run(use())


def test_handshakes_count_as_connections(context: ssl.SSLContext) -> None:
    async def use() -> None:
        async with serving(context, max_connections=2) as port:
            with silent(port):
                with silent(port), silent(port) as further:
                    assert await asyncio.to_thread(is_ended, further)
                while not await asyncio.to_thread(greeted, port):  # until the one that has left is missed
                    await asyncio.sleep(0.005)

    run(use())


def test_at_the_end_handshakes_are_given_up(context: ssl.SSLContext) -> None:
    async def use() -> None:
        async with serving(context) as port:
            client = silent(port)
            assert await asyncio.to_thread(greeted, port)  # so it was accepted
        with client:
            assert await asyncio.to_thread(is_ended, client)
        with pytest.raises(ConnectionRefusedError):
            silent(port)

    run(use())
