"""The client: one process, one event loop, as cheap as Python allows: it often runs on the cores that it measures.

Requests are written before their clock starts, and answers are read by httptools and not parsed any further.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from dataclasses import dataclass
from typing import cast

import httptools

from embedway.load_test.target import Target

MAX_RETRY_SECONDS = 3600.0


class NoAnswer(Exception):
    """There was no whole answer; the message says why in a few words, the same ones for the same cause."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    retry_after: float | None
    """Seconds that the server asks to wait"""


class Connection(asyncio.Protocol):
    """A kept-alive HTTP/1.1 connection; one request at a time. Callbacks are asyncio's and httptools'."""

    def __init__(self) -> None:
        self.is_open = True
        self._transport: asyncio.WriteTransport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._retry_after: float | None = None

    async def exchange(self, request: bytes, timeout: float) -> Answer:
        """Raises NoAnswer. Who gives the request up closes the connection: nobody would read its answer."""
        assert self._transport is not None
        loop = asyncio.get_running_loop()
        self._answer = loop.create_future()
        patience = loop.call_later(timeout, self._fail, "timeout")
        try:
            self._transport.write(request)
            return await self._answer
        except asyncio.CancelledError:
            self.close()
            raise
        finally:
            patience.cancel()

    def close(self) -> None:
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's are, but do not say so

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail("not HTTP/1.1")

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._fail("connection closed")

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"retry-after":
            self._retry_after = _seconds(value)

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        answer = Answer(self._parser.get_status_code(), b"".join(self._body), self._retry_after)
        self._body, self._retry_after = [], None
        if not self._parser.should_keep_alive():
            self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)

    def _fail(self, reason: str) -> None:
        self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(NoAnswer(reason))


class Client:
    """Connections to one server: an idle one is used again, the last one first, and another is opened where none is."""

    def __init__(self, target: Target, *, timeout: float) -> None:
        self.target, self.timeout = target, timeout
        self._tls = target.tls_context()
        self._idle: list[Connection] = []

    async def send(self, request: bytes) -> Answer:
        """Raises NoAnswer."""
        connection = self._take_idle() or await self._connect()
        answer = await connection.exchange(request, self.timeout)
        self._idle.append(connection)
        return answer

    async def open(self, count: int) -> None:
        """So many connections, so that no request of a measurement pays for one.

        One that cannot be opened is left to a request, which then says so.
        """
        self._idle = [connection for connection in self._idle if connection.is_open]
        missing = count - len(self._idle)
        opened = await asyncio.gather(*(self._connect() for _ in range(missing)), return_exceptions=True)
        self._idle += [connection for connection in opened if isinstance(connection, Connection)]

    def close(self) -> None:
        for connection in self._idle:
            connection.close()

    def _take_idle(self) -> Connection | None:
        while self._idle:
            if (connection := self._idle.pop()).is_open:
                return connection
        return None

    async def _connect(self) -> Connection:
        loop, target = asyncio.get_running_loop(), self.target
        connecting = loop.create_connection(Connection, target.host, target.port, ssl=self._tls)
        try:
            _, connection = await asyncio.wait_for(connecting, self.timeout)
        except asyncio.TimeoutError as error:  # in Python 3.10 it is not the built-in one
            raise NoAnswer("timeout") from error
        except ssl.SSLError as error:
            raise NoAnswer(f"TLS failed ({getattr(error, 'verify_message', None) or error.reason})") from error
        except OSError as error:
            raise NoAnswer(f"cannot connect ({_reason(error)})") from error
        return connection


def _reason(error: OSError) -> str:
    """In the system's words: asyncio's have the address in them, or those of several."""
    is_of_system = error.errno is not None and error.errno > 0
    return os.strerror(error.errno) if is_of_system else error.strerror or str(error)


def _seconds(value: bytes) -> float | None:
    """A `Retry-After` in seconds; a date, which hardly any server sends, is passed over."""
    return min(float(value), MAX_RETRY_SECONDS) if value.isdigit() else None
