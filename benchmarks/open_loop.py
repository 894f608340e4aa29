"""A client that does not wait: requests come when they come, however many are unanswered, as those of many users do.

It runs on the cores that it measures: nothing here is a task or a future for each request.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import uvloop

from benchmarks.http_load import HOST, KeptConnection, RequestFailed
from embedway.load_test.loads import arrivals

MAX_CONNECTIONS = 2000
LEAST_SLEEP = 0.001
"""Seconds: the event loop's clock has no shorter ones, and would not sleep at all"""


@dataclass(slots=True)
class OpenLoopResult:
    """Latencies are in seconds from when a request was due, so that a client that is late hides nothing."""

    seconds: float
    """From the first request to the last that was due"""
    num_answered_meanwhile: int = 0
    """What is answered after it has no further requests beside it"""
    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    """429"""
    expired: list[float] = field(default_factory=list)
    """504"""
    other: list[int] = field(default_factory=list)
    """Statuses that are none of these"""
    client_cpu_seconds: float = 0.0

    def goodput(self) -> float:
        """Answered requests a second, while more came"""
        return self.num_answered_meanwhile / self.seconds

    def add(self, status: int, due: float, answered_at: float) -> None:
        kept = {200: self.answered, 429: self.refused, 504: self.expired}.get(status)
        if kept is None:
            self.other.append(status)
        else:
            kept.append(answered_at - due)
            self.num_answered_meanwhile += status == 200 and answered_at <= self.seconds


def run_open_loop(port: int, requests: Sequence[bytes], *, rate: float, seed: int) -> OpenLoopResult:
    """Send the requests in order, `rate` a second on average, at the times of a Poisson process; await all answers.

    Raises RequestFailed where one gets none.
    """
    due = list(itertools.islice(arrivals(rate, math.inf, seed), len(requests)))
    gc.disable()  # it would go through all requests under way, 50 ms, and count that as the server's time
    try:
        return uvloop.run(_run(port, requests, due))
    finally:
        gc.enable()


async def _run(port: int, requests: Sequence[bytes], due: Sequence[float]) -> OpenLoopResult:
    cpu = time.process_time()
    sender = Sender(port, requests, due)
    result = await sender.run()
    result.client_cpu_seconds = time.process_time() - cpu
    return result


class Sender:
    """Sends each request when it is due, on a connection that is free, or a new one."""

    def __init__(self, port: int, requests: Sequence[bytes], due: Sequence[float]) -> None:
        """`due`: seconds from the beginning, ascending."""
        self._port, self._requests, self._due = port, requests, due
        self._result = OpenLoopResult(seconds=due[-1])
        self._loop = asyncio.get_running_loop()
        self._is_over: asyncio.Future[None] = self._loop.create_future()
        self._connections: list[Connection] = []
        self._free: list[Connection] = []
        self._connecting: set[asyncio.Task[None]] = set()
        self._waiting: deque[int] = deque()
        """Requests that are due, for which all connections are taken"""
        self._next = self._num_answered = 0
        self._began = 0.0

    async def run(self) -> OpenLoopResult:
        self._began = time.perf_counter()
        self._send_due()
        try:
            await self._is_over
        finally:
            for connection in self._connections:
                connection.close()
        return self._result

    def on_answer(self, connection: Connection, status: int) -> None:
        self._result.add(status, self._due[connection.request], time.perf_counter() - self._began)
        self._num_answered += 1
        self._use(connection)
        if self._num_answered == len(self._requests):
            self._is_over.set_result(None)

    def on_lost(self, error: Exception | None) -> None:
        """Of a connection that owed an answer, or was never made."""
        if not self._is_over.done():
            self._is_over.set_exception(RequestFailed(f"the connection was closed: {error}"))

    def _send_due(self) -> None:
        now = time.perf_counter() - self._began
        while self._next < len(self._due) and self._due[self._next] <= now:
            self._waiting.append(self._next)
            self._next += 1
            if self._free:
                self._use(self._free.pop())
            elif len(self._connections) + len(self._connecting) < MAX_CONNECTIONS:
                task = self._loop.create_task(self._connect())
                self._connecting.add(task)
                task.add_done_callback(self._connecting.discard)
        if self._next < len(self._due):
            self._loop.call_later(max(LEAST_SLEEP, self._due[self._next] - now), self._send_due)

    async def _connect(self) -> None:
        try:
            _, connection = await self._loop.create_connection(lambda: Connection(self), HOST, self._port)
        except OSError as error:
            self.on_lost(error)
            return
        self._connections.append(connection)
        self._use(connection)

    def _use(self, connection: Connection) -> None:
        if self._waiting:
            number = self._waiting.popleft()
            connection.send(number, self._requests[number])
        else:
            self._free.append(connection)


class Connection(KeptConnection):
    """One that tells its sender of each answer."""

    def __init__(self, sender: Sender) -> None:
        super().__init__()
        self._sender = sender
        self._is_busy = False
        self.request = 0
        """The number of the one that was sent last"""

    def send(self, number: int, request: bytes) -> None:
        self.request, self._is_busy = number, True
        self.write(request)

    def on_message_complete(self) -> None:
        self._is_busy = False
        self._sender.on_answer(self, self._parser.get_status_code())

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_busy:
            self._sender.on_lost(exc)
