"""What a request made is freed as it ends, whichever way it ends: nothing of it waits for the garbage collector.

The collector looks seldom at what has been there for a while, so that cycles of references would be a growth of memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from pathlib import Path
from typing import TypeAlias

import pytest

from api.conftest import Serve
from api.protocol_server import EMBED, Server, connection, head, read_answer, request, serving
from embedway.api import waits
from embedway.api.server import run
from fake_model import POISON_ID, REFUSED, write_fake_adapter
from garbage import frozen_heap, garbage

COUNT = 8
"""Requests of a kind: a cycle in each of them is at least as many objects"""
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


Use: TypeAlias = Callable[[Server, int], Awaitable[None]]
"""Sends so many requests"""


def ask(port: int, data: bytes, status: int) -> None:
    with connection(port, data) as client:
        assert read_answer(client).startswith(b"HTTP/1.1 %d " % status)


def answered(data: bytes, status: int) -> Use:
    """Each on a connection of its own."""

    def ask_all(port: int, count: int) -> None:
        for _ in range(count):
            ask(port, data, status)

    async def use(server: Server, count: int) -> None:
        await asyncio.to_thread(ask_all, server.port, count)

    return use


async def kept_alive(server: Server, count: int) -> None:
    """All on one connection."""

    def ask_all() -> None:
        with connection(server.port, b"") as client:
            for _ in range(count):
                client.sendall(request("a text"))
                assert read_answer(client).startswith(b"HTTP/1.1 200 ")

    await asyncio.to_thread(ask_all)


@contextlib.asynccontextmanager
async def clients(server: Server, count: int, data: bytes) -> AsyncGenerator[list[socket.socket]]:
    """So many who have sent `data`."""
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(await asyncio.to_thread(connection, server.port, data)) for _ in range(count)]
        yield opened


async def until_answered(opened: list[socket.socket], status: int) -> None:
    for client in opened:
        assert (await asyncio.to_thread(read_answer, client)).startswith(b"HTTP/1.1 %d " % status)


@contextlib.contextmanager
def closed_gate(server: Server) -> Generator[None]:
    """Every request waits for the model."""
    server.model.gate.clear()
    try:
        yield
    finally:
        server.model.gate.set()


def answered_late(data: bytes) -> Use:
    """All wait for the model at once, and are watched."""

    async def use(server: Server, count: int) -> None:
        with closed_gate(server):
            async with clients(server, count, data) as opened:
                await server.until_admitted(count)
                server.model.gate.set()
                await until_answered(opened, 200)

    return use


def aborted(data: bytes) -> Use:
    async def use(server: Server, count: int) -> None:
        with closed_gate(server):
            async with clients(server, count, data) as opened:
                await server.until_admitted(count)
                server.context.waits.abort(None)
                await until_answered(opened, 409)

    return use


def expired(data: bytes) -> Use:
    """One after the other: several at once would be refused as late."""

    async def use(server: Server, count: int) -> None:
        with closed_gate(server):
            await answered(data, 504)(server, count)

    return use


def gone_while_waiting(data: bytes) -> Use:
    async def use(server: Server, count: int) -> None:
        with closed_gate(server):
            async with clients(server, count, data):
                await server.until_admitted(count)
            await server.until_idle()

    return use


def gone_after(data: bytes, *, is_begun: bool = True) -> Use:
    """Before the body's end; `is_begun`: the application waits for it."""

    async def use(server: Server, count: int) -> None:
        async with clients(server, count, data):
            await server.until(lambda: len(server.state.tasks if is_begun else server.state.connections) == count)

    return use


async def gone_while_reading(server: Server, count: int) -> None:
    async with clients(server, count, request(MANY)) as opened:
        for client in opened:
            assert await asyncio.to_thread(client.recv, 64)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        assert len(server.state.tasks) == count, "the rest of each answer waits"


LARGE = [[101, 102]] * 65
"""More items than are read on the event loop"""
MANY = [[101, 102]] * 800
"""Too many for an answer in one piece, or for the buffers on its way"""
LONG = "x" * 2**17
"""A body with this is parsed by a worker"""
HURRIED = "X-Request-Timeout-Ms: 20"
PATIENT = "X-Request-Timeout-Ms: 60000"
CLOSE = "Connection: close"

USES: dict[str, Use] = {
    "answered": answered(request("a text"), 200),
    "answered, and closed by the server": answered(request("a text", EMBED, CLOSE), 200),
    "answered, beside the event loop": answered(request(LARGE), 200),
    "answered, with a deadline": answered(request("a text", EMBED, PATIENT), 200),
    "answered, in many pieces": answered(request(MANY), 200),
    "answered, parsed in a worker": answered(request("a text", user=LONG), 200),
    "answered on a connection that is kept": kept_alive,
    "answered late": answered_late(request("a text")),
    "answered late, beside the event loop": answered_late(request(LARGE)),
    "/encode": answered(request("a text", "POST /encode", text="a text"), 200),
    "/tokenize": answered(request("a text", "POST /tokenize", prompt="a text"), 200),
    "/server_info": answered(head("GET /server_info"), 200),
    "/metrics": answered(head("GET /metrics", CLOSE), 200),
    "/v1/models": answered(head("GET /v1/models"), 200),
    "/livez": answered(head("GET /livez"), 200),
    "refused: no JSON": answered(head(EMBED, "Content-Type: application/json", "Content-Length: 1") + b"{", 400),
    "refused: no input": answered(request(None), 400),
    "refused: wrong type": answered(request({}, dimensions="many"), 400),
    "refused: no such model": answered(request("a text", model="another"), 404),
    "refused: too long": answered(request("word " * 600), 400),
    "refused: too long, beside the event loop": answered(request(["word " * 600] * 2), 400),
    "refused: in a worker": answered(request({}, user=LONG), 400),
    "refused: with a deadline": answered(request({}, EMBED, PATIENT), 400),
    "refused: no such route": answered(head("GET /nowhere"), 404),
    "refused: no such method": answered(head("PUT /v1/embeddings"), 405),
    "refused: no such host": answered(head(EMBED).replace(b"localhost", b"elsewhere"), 421),
    "refused: too large": answered(head(EMBED, "Content-Length: 99999999999"), 413),
    "refused: no HTTP": answered(b"nonsense\r\n\r\n", 400),
    "refused: no host": answered(b"GET / HTTP/1.1\r\n\r\n", 400),
    "refused: long head": answered(head(EMBED, f"X: {LONG}"), 431),
    "refused: the model raises": answered(request([[POISON_ID]]), 500),
    "refused: the model raises, beside the event loop": answered(request([[POISON_ID], *LARGE]), 500),
    "expired": expired(request("a text", EMBED, HURRIED)),
    "expired, beside the event loop": expired(request(LARGE, EMBED, HURRIED)),
    "expired before the body's end": answered(request("a text", EMBED, HURRIED)[:-1], 504),
    "aborted": aborted(request("a text")),
    "aborted, beside the event loop": aborted(request(LARGE)),
    "gone before the request": gone_after(b"", is_begun=False),
    "gone before the head's end": gone_after(head(EMBED)[:-2], is_begun=False),
    "gone before the body's end": gone_after(request("a text")[:-1]),
    "gone before the body's end, with a deadline": gone_after(request("a text", EMBED, PATIENT)[:-1]),
    "gone while it waits": gone_while_waiting(request("a text")),
    "gone while it waits, with a deadline": gone_while_waiting(request("a text", EMBED, PATIENT)),
    "gone while it waits, beside the event loop": gone_while_waiting(request(LARGE)),
    "gone while three wait": gone_while_waiting(request("a text") * 3),
    "gone while it reads": gone_while_reading,
}


async def garbage_of(use: Use, server: Server) -> Counter[str]:
    """What COUNT requests leave for the garbage collector."""
    await use(server, 1)  # what is made once
    await server.until_idle()
    with garbage() as found:
        await use(server, COUNT)
        await server.until_idle()
        await asyncio.sleep(0)  # transports end in the loop's next turn
    return found


def test_nothing_of_a_request_waits_for_the_garbage_collector(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the event loop that API processes have: those of asyncio's own transports are circles themselves."""
    monkeypatch.setattr(waits, "WATCH_AFTER_SECONDS", 0.0)  # each request's client is watched
    refused = write_fake_adapter(tmp_path / "refused", REFUSED)
    uses = {**USES, "refused: its adapter": answered(request("a text", lora_path=str(refused)), 400)}
    left: dict[str, Counter[str]] = {}

    async def use_all() -> None:
        async with serving(serve, lora_root=[tmp_path]) as server:
            await USES["answered"](server, COUNT)  # what is made once or twice
            with frozen_heap():
                for name, use in uses.items():
                    left[name] = await garbage_of(use, server)

    run(use_all())
    assert left.keys() == uses.keys()
    assert not {name: found.most_common(10) for name, found in left.items() if found.total() >= COUNT}
