"""A client that does not wait: requests come when they come, however many are unanswered, as those of many users do."""

from __future__ import annotations

import asyncio
import gc
import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import uvloop

from benchmarks.http_load import Connection, connect
from embedway.load_test.loads import arrivals

MAX_CONNECTIONS = 2000


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


def run_open_loop(port: int, requests: Sequence[bytes], *, rate: float, seed: int) -> OpenLoopResult:
    """Send the requests in order, `rate` a second on average, at the times of a Poisson process; await all answers."""
    due = list(itertools.islice(arrivals(rate, math.inf, seed), len(requests)))
    gc.disable()  # it would go through all requests under way, 50 ms, and count that as the server's time
    try:
        return uvloop.run(_run(port, requests, due))
    finally:
        gc.enable()


async def _run(port: int, requests: Sequence[bytes], arrivals: Sequence[float]) -> OpenLoopResult:
    free: list[Connection] = []
    room = asyncio.Semaphore(MAX_CONNECTIONS)
    result = OpenLoopResult(seconds=arrivals[-1])
    cpu, began = time.process_time(), time.perf_counter()

    async def send(request: bytes, due: float) -> None:
        async with room:
            connection = free.pop() if free else await connect(port)
            status, _ = await connection.exchange(request)
            answered_at = time.perf_counter() - began
            latency = answered_at - due
            free.append(connection)
        kept = {200: result.answered, 429: result.refused, 504: result.expired}.get(status)
        if kept is None:
            result.other.append(status)
        else:
            kept.append(latency)
            result.num_answered_meanwhile += status == 200 and answered_at <= result.seconds

    sending: list[asyncio.Task[None]] = []
    for request, due in zip(requests, arrivals, strict=True):
        if (wait := due - (time.perf_counter() - began)) > 0:
            await asyncio.sleep(wait)
        sending.append(asyncio.ensure_future(send(request, due)))
    await asyncio.gather(*sending)
    result.client_cpu_seconds = time.process_time() - cpu
    for connection in free:
        connection.close()
    return result
