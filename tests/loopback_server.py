"""A server on loopback that answers as a test says, well or badly, and remembers who asked what."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import anyio


@dataclass(frozen=True, slots=True)
class Asked:
    target: str
    headers: dict[str, str]
    """Names in lower case"""
    body: bytes = b""


Answer: TypeAlias = Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class LoopbackServer:
    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    num_connections: int = 0
    """So far"""
    open_connections: set[asyncio.StreamWriter] = field(default_factory=set)

    async def until_closed(self) -> None:
        """Wait until the client has closed all its connections."""
        with anyio.fail_after(10):
            while self.open_connections:
                await asyncio.sleep(0.002)


def response(body: bytes, *, status: str = "200 OK", **headers: object) -> bytes:
    """A whole one; underscores in the headers' names are dashes."""
    lines = {"content-length": len(body), **{name.replace("_", "-"): value for name, value in headers.items()}}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value is not None)
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode("latin-1") + body


def always(content: bytes) -> Answer:
    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(content)

    return answer


@contextlib.asynccontextmanager
async def serving(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncGenerator[LoopbackServer, None]:
    """Connections are kept until the client, or the answer, closes them."""
    state = LoopbackServer()

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        state.num_connections += 1
        state.open_connections.add(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while not writer.is_closing():
                asked = await _read(reader)
                state.asked.append(asked)
                await _answer_while_connected(answer(asked, writer), reader)
                await writer.drain()
        if not writer.is_closing():
            writer.transport.abort()  # close() would wait for the client's farewell, under TLS
        state.open_connections.discard(writer)

    server = await asyncio.start_server(on_connection, "127.0.0.1", 0, ssl=tls)
    state.port = server.sockets[0].getsockname()[1]
    try:
        yield state
    finally:
        server.close()
        for writer in list(state.open_connections):
            writer.transport.abort()
        await state.until_closed()
        await asyncio.sleep(0)  # transports end in the loop's next turn


async def _answer_while_connected(answer: Awaitable[None], reader: asyncio.StreamReader) -> None:
    """Give the answer up when the client goes away, as an endless one must be."""
    answering, leaving = asyncio.ensure_future(answer), asyncio.ensure_future(_until_left(reader))
    try:
        await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            answering.result()
    finally:
        for task in (answering, leaving):
            task.cancel()
        await asyncio.gather(answering, leaving, return_exceptions=True)


async def _until_left(reader: asyncio.StreamReader) -> None:
    while not reader.at_eof():
        await asyncio.sleep(0.005)


async def _read(reader: asyncio.StreamReader) -> Asked:
    asked = _read_head(await reader.readuntil(b"\r\n\r\n"))
    length = int(asked.headers.get("content-length", "0"))
    return replace(asked, body=await reader.readexactly(length)) if length else asked


def _read_head(head: bytes) -> Asked:
    first, *lines = head.decode("latin-1").rstrip().split("\r\n")
    fields = (line.partition(":") for line in lines)
    return Asked(first.split(" ")[1], {name.lower(): value.strip() for name, _, value in fields})
