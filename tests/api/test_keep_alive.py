"""A connection that nobody uses is closed in time, whichever way its last request went, and no other."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from api.conftest import Serve
from api.protocol_server import EMBED, Server, connection, head, read_answer, request, say, serving
from embedway.api.early_refusal import EarlyRefusal
from embedway.api.http_protocol import HttpProtocol

QUERY = request("a text")
LIVEZ = head("GET /livez")


async def only_connection(server: Server) -> HttpProtocol:
    await server.until(lambda: bool(server.state.connections))
    [one] = server.state.connections
    return cast("HttpProtocol", one)


@pytest.mark.parametrize("last", [QUERY, LIVEZ, request("a text", EMBED, "Origin: http://localhost")])
@pytest.mark.parametrize("first", [QUERY, LIVEZ])
async def test_an_idle_connection_is_closed(serve: Serve, first: bytes, last: bytes) -> None:
    async with serving(serve) as server:
        with await asyncio.to_thread(connection, server.port, b"") as client:
            one = await only_connection(server)
            assert (await asyncio.to_thread(say, client, first)).startswith(b"HTTP/1.1 200 ")
            one.timeout_keep_alive_handler()  # too early
            one.timeout_keep_alive = cast("int", 0.02)
            assert (await asyncio.to_thread(say, client, last)).startswith(b"HTTP/1.1 200 ")
            one.timeout_keep_alive_handler()
            assert await asyncio.to_thread(client.recv, 1) == b""


async def test_so_is_one_whose_requests_are_refused(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EarlyRefusal, "answer", lambda *_: b"HTTP/1.1 429 No\r\ncontent-length: 1\r\n\r\n-")
    async with serving(serve) as server:
        with await asyncio.to_thread(connection, server.port, b"") as client:
            one = await only_connection(server)
            one.timeout_keep_alive = cast("int", 0.02)
            assert (await asyncio.to_thread(say, client, QUERY)).startswith(b"HTTP/1.1 429 ")
            assert await asyncio.to_thread(client.recv, 1) == b""


async def test_one_whose_request_takes_longer_is_not(serve: Serve) -> None:
    async with serving(serve) as server:
        with await asyncio.to_thread(connection, server.port, QUERY) as client:
            assert (await asyncio.to_thread(read_answer, client)).startswith(b"HTTP/1.1 200 ")
            one = await only_connection(server)
            one.timeout_keep_alive = 0
            server.model.gate.clear()
            client.sendall(QUERY)
            await server.until_admitted(1)
            one.timeout_keep_alive_handler()
            one.timeout_keep_alive = 60
            server.model.gate.set()
            for _ in range(2):
                assert (await asyncio.to_thread(read_answer, client)).startswith(b"HTTP/1.1 200 ")
                client.sendall(QUERY)
            await asyncio.to_thread(read_answer, client)
