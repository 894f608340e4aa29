"""The client of the HTTP measurements: one process, one event loop, as cheap as Python allows.

It runs on the cores that it measures, so every microsecond of it is the server's: requests are written before the
clock starts, answers are read by httptools and not parsed any further.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

import httptools
import orjson
import uvloop

from benchmarks.load_result import LoadResult

SERVED_NAME = "bench"
"""The model's name on every server."""
HOST = "127.0.0.1"
NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class RequestFailed(Exception):
    """A server answered with something else than vectors."""


class KeptConnection(asyncio.Protocol):
    """One kept-alive HTTP/1.1 connection; one request at a time. Callbacks are asyncio's and httptools'."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.WriteTransport | None = None

    def write(self, request: bytes) -> None:
        assert self._transport is not None
        self._transport.write(request)

    def close(self) -> None:
        assert self._transport is not None
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's are, but do not say so

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)


class Connection(KeptConnection):
    """One whose answers are awaited."""

    def __init__(self) -> None:
        super().__init__()
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._body: list[bytes] = []

    async def post(self, request: bytes) -> bytes:
        """Send a request, return the answer's body. Raises RequestFailed."""
        self._answer = asyncio.get_running_loop().create_future()
        self.write(request)
        status, body = await self._answer
        if status != 200:
            raise RequestFailed(f"status {status}: {body[:500].decode(errors='replace')}")
        return body

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(RequestFailed(f"the connection was closed: {exc}"))

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        assert self._answer is not None
        body = b"".join(self._body)
        self._body.clear()
        self._answer.set_result((self._parser.get_status_code(), body))


def bearer(key: str | None) -> Mapping[str, str]:
    """The header with an API key; none without one."""
    return NO_HEADERS if key is None else {"Authorization": f"Bearer {key}"}


def write_request(path: str, texts: Sequence[str], headers: Mapping[str, str] = NO_HEADERS) -> bytes:
    """A whole HTTP request for the vectors of some texts: a string where it is one, as most clients send a query.

    base64 is what OpenAI's own client asks for.
    """
    given = texts[0] if len(texts) == 1 else texts
    body = orjson.dumps({"model": SERVED_NAME, "input": given, "encoding_format": "base64"})
    further = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
        f"Accept: application/json\r\nContent-Length: {len(body)}\r\n{further}\r\n"
    )
    return head.encode() + body


def run_load(port: int, requests: Sequence[bytes], *, connections: int, seconds: float) -> LoadResult:
    """Send the requests in order, each connection its next one when the last is answered.

    No request begins after `seconds`; those under way are finished and count. Raises RequestFailed.
    """
    return uvloop.run(_run_load(port, requests, connections, seconds))


@dataclass(frozen=True, slots=True)
class Requests:
    """Some requests and how many connections send them."""

    requests: Sequence[bytes]
    connections: int


def run_loads(port: int, loads: Sequence[Requests], *, seconds: float) -> list[LoadResult]:
    """`run_load` of several kinds of requests at the same time."""

    async def run() -> list[LoadResult]:
        return await asyncio.gather(*(_run_load(port, load.requests, load.connections, seconds) for load in loads))

    return uvloop.run(run())


def post_once(port: int, request: bytes) -> bytes:
    """The body of one answer. Raises RequestFailed, or OSError where nobody listens yet."""

    async def post() -> bytes:
        connection = await connect(port)
        try:
            return await connection.post(request)
        finally:
            connection.close()

    return uvloop.run(post())


async def _run_load(port: int, requests: Sequence[bytes], connections: int, seconds: float) -> LoadResult:
    opened = await asyncio.gather(*(connect(port) for _ in range(connections)))
    latencies: list[float] = []
    cpu, began = time.process_time(), time.perf_counter()
    waiting = _until(began + seconds, requests)
    try:
        await asyncio.gather(*(_drive(connection, waiting, latencies) for connection in opened))
        return LoadResult(time.perf_counter() - began, latencies, time.process_time() - cpu)
    finally:
        for connection in opened:
            connection.close()


async def connect(port: int) -> Connection:
    _, connection = await asyncio.get_running_loop().create_connection(Connection, HOST, port)
    return connection


def _until(end: float, requests: Sequence[bytes]) -> Iterator[bytes]:
    for request in requests:
        if time.perf_counter() > end:
            return
        yield request


async def _drive(connection: Connection, waiting: Iterator[bytes], latencies: list[float]) -> None:
    for request in waiting:
        began = time.perf_counter()
        await connection.post(request)
        latencies.append(time.perf_counter() - began)
