"""The HTTP protocol on a port of the loopback address, as an API process has it, over the fake model."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import socket
import threading
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import uvicorn
from uvicorn.server import ServerState

from api.conftest import MODEL, Serve
from embedway.api.app import create_core, with_layers
from embedway.api.context import ApiContext
from embedway.api.early_refusal import EarlyRefusal
from embedway.api.http_protocol import HttpProtocol
from embedway.api.quick_request import QuickRequests
from embedway.api.server import limits_of
from embedway.models.interface import PackedBatch
from fake_model import FakeModel

SMALL_BUFFER = 4096
"""Of a socket: a large answer does not go at once"""
EMBED = "POST /v1/embeddings"


class GatedModel(FakeModel):
    """Runs while its gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()

    def embed(self, batch: PackedBatch) -> npt.NDArray[np.float32]:
        self.gate.wait()
        return super().embed(batch)


@dataclass
class Server:
    """A server that has begun."""

    context: ApiContext
    model: GatedModel
    port: int
    state: ServerState = field(default_factory=ServerState)

    async def until(self, is_so: Callable[[], bool]) -> None:
        async def poll() -> None:
            while not is_so():
                await asyncio.sleep(0.002)

        await asyncio.wait_for(poll(), 60)

    async def until_idle(self) -> None:
        await self.until(lambda: not (self.state.tasks or self.state.connections))

    async def until_admitted(self, count: int) -> None:
        books = self.context.models.named(None).admission
        await self.until(lambda: books.interactive.requests + books.bulk.requests == count)


def request(value: object, start: str = EMBED, *headers: str, **fields: object) -> bytes:
    body = json.dumps({"model": MODEL, "input": value, **fields}).encode()
    return head(start, *headers, f"Content-Length: {len(body)}", "Content-Type: application/json") + body


def head(start: str, *headers: str) -> bytes:
    return "\r\n".join([f"{start} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


def connection(port: int, data: bytes) -> socket.socket:
    """Of a client who has sent `data`."""
    client = socket.socket()
    client.settimeout(60)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    client.connect(("127.0.0.1", port))
    client.sendall(data)
    return client


def read_answer(client: socket.socket) -> bytes:
    """All that comes until the server has closed, or until one whole answer is there."""
    answer = b""
    while data := client.recv(2**16):
        answer += data
        start, _, body = answer.partition(b"\r\n\r\n")
        if body and len(body) == int(start.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]):
            break
    return answer


async def exchange(server: Server, *data: bytes) -> list[bytes]:
    """The answers on one connection, each to what is sent in one piece."""

    def exchange_all() -> list[bytes]:
        with connection(server.port, b"") as client:
            return [say(client, piece) for piece in data]

    return await asyncio.to_thread(exchange_all)


def say(client: socket.socket, data: bytes) -> bytes:
    client.sendall(data)
    return read_answer(client)


@contextlib.asynccontextmanager
async def serving(serve: Serve, **settings: object) -> AsyncGenerator[Server]:
    model = GatedModel()
    async with serve(model=model, cache_mb=0, **settings) as context:
        config = uvicorn.Config(
            with_layers(create_core(context), context), log_config=None, ws="none", lifespan="off", server_header=False
        )
        config.load()
        server = Server(context, model, port=0)
        protocol = functools.partial(
            HttpProtocol,
            config,
            server.state,
            {},
            limits=limits_of(context.settings),
            early_refusal=EarlyRefusal(context),
            quick_requests=QuickRequests(context),
        )
        listening = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
        listening.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)
        server.port = listening.sockets[0].getsockname()[1]
        try:
            yield server
        finally:
            listening.close()
            await listening.wait_closed()
