"""The loads: so many requests at a time, or so many a second.

A closed load (`run_closed`) never has more requests unanswered than it may: a server that stalls is asked less, and the
wait is seen once. An open load (`run_open`) sends when a request is due, as many users do, whatever is unanswered, and
counts from that moment, so that a stall is seen by all who came during it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from embedway.load_test.measurement import OK, Load, Measurement, Tally

if TYPE_CHECKING:
    from embedway.load_test.client import Answer, Client

MOST_AT_ONCE = 2000
"""Unanswered requests of an open load that have a connection; others wait for one, and their clocks run."""
FAILURE_PAUSE_SECONDS = 0.1
"""After a failure: a server that refuses at once is not to be asked ten thousand times a second."""


async def run(client: Client, requests: Iterator[bytes], load: Load, *, seconds: float) -> Measurement:
    if load.rate is not None:
        return await run_open(client, requests, rate=load.rate, seconds=seconds)
    assert load.concurrency is not None
    return await run_closed(client, requests, concurrency=load.concurrency, seconds=seconds)


async def run_closed(client: Client, requests: Iterator[bytes], *, concurrency: int, seconds: float) -> Measurement:
    """No request begins after `seconds`; those under way are finished, and count.

    A refused sender waits as long as `Retry-After` says, or until the load ends.
    """
    await client.open(concurrency)
    tally = Tally()
    end = tally.began + seconds

    async def drive() -> None:
        for request in requests:
            began = time.perf_counter()
            if began > end:
                return
            if pause := wanted_pause(await tally.send(client, request, began)):
                await asyncio.sleep(min(pause, max(0.0, end - time.perf_counter())))

    await asyncio.gather(*(drive() for _ in range(concurrency)))
    return tally.end(Load(concurrency=concurrency))


def wanted_pause(answer: Answer | None) -> float:
    """Seconds; 0 after vectors"""
    if answer is not None and answer.status == OK:
        return 0.0
    asked_for = None if answer is None else answer.retry_after
    return asked_for or FAILURE_PAUSE_SECONDS


async def run_open(
    client: Client, requests: Iterator[bytes], *, rate: float, seconds: float, seed: int = 0
) -> Measurement:
    """Requests at the times of a Poisson process; a refused one is counted and not sent again. All are awaited."""
    room = asyncio.Semaphore(MOST_AT_ONCE)
    tally = Tally()

    async def send(request: bytes, due: float) -> None:
        async with room:
            await tally.send(client, request, due)

    sending: set[asyncio.Task[None]] = set()
    for after in arrivals(rate, seconds, seed):
        request, due = next(requests), tally.began + after
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        task = asyncio.ensure_future(send(request, due))
        sending.add(task)
        task.add_done_callback(sending.discard)
    await asyncio.gather(*sending)
    return tally.end(Load(rate=rate))


def arrivals(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """When requests are due, in seconds from the beginning."""
    gaps, due = random.Random(seed), 0.0  # noqa: S311 - no secret
    while (due := due + gaps.expovariate(rate)) < seconds:
        yield due
