"""Which order of the queue is better, simulated: python -m benchmarks.queue_orders

The queue's own (fewest remaining first, with ageing) beside deficit round robin between requests (Shreedhar and
Varghese, SIGCOMM 1995) and arrival: the same arrivals, the same batches of at most BATCH_MS, no clock, no model. Work
can be cut anywhere, and a batch takes what is in it and FIXED_MS.
"""

from __future__ import annotations

import argparse
import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from embedway.engine.request_queue import RequestQueue

BATCH_MS, FIXED_MS = 20.0, 1.0
QUANTUM_MS = 5.0
"""What a request gets in each round: a document's work"""
KINDS = {"query": (1.0, 0.30), "document": (5.0, 0.20), "64 documents": (320.0, 0.35), "2048 items": (5000.0, 0.15)}
"""Milliseconds of work of a request, and its kind's part of all work"""


@dataclass(slots=True, eq=False)
class Job:
    key: int
    kind: str
    arrived_ms: float
    left_ms: float
    priority: int = 0
    ended_ms: float = field(default=math.nan)


class Order(Protocol):
    def add(self, job: Job) -> None: ...

    def begin_batch(self) -> None: ...

    def turn(self) -> tuple[Job, float] | None:
        """Whose turn it is, and how many milliseconds it may have in that."""
        ...

    def took(self, job: Job, milliseconds: float) -> None:
        """The job got so much; it is over where nothing is left."""
        ...


class FewestRemaining:
    def __init__(self) -> None:
        self._queue = RequestQueue[Job]()
        self._next: Job | None = None

    def add(self, job: Job) -> None:
        self._queue.add(job, job.left_ms)

    def begin_batch(self) -> None:
        self._next = self._queue.begin_batch()

    def turn(self) -> tuple[Job, float] | None:
        job, self._next = self._next or self._queue.first(), None
        return None if job is None else (job, math.inf)

    def took(self, job: Job, milliseconds: float) -> None:
        self._queue.served(milliseconds)
        if job.left_ms > 0:
            self._queue.has_left(job, job.left_ms)
        else:
            self._queue.remove(job)


class RoundRobin:
    """Deficit round robin; with an endless quantum it is arrival."""

    def __init__(self, quantum_ms: float) -> None:
        self._quantum_ms = quantum_ms
        self._ring: deque[tuple[Job, float]] = deque()
        """Jobs, and what each may still have in this round"""

    def add(self, job: Job) -> None:
        self._ring.append((job, self._quantum_ms))

    def begin_batch(self) -> None:
        pass

    def turn(self) -> tuple[Job, float] | None:
        return self._ring[0] if self._ring else None

    def took(self, job: Job, milliseconds: float) -> None:
        _, deficit = self._ring.popleft()
        if job.left_ms <= 0:
            return
        if deficit > milliseconds:
            self._ring.appendleft((job, deficit - milliseconds))
        else:
            self._ring.append((job, self._quantum_ms))


ORDERS: dict[str, Callable[[], Order]] = {
    "fewest remaining, ageing": FewestRemaining,
    f"deficit round robin, {QUANTUM_MS:.0f} ms": lambda: RoundRobin(QUANTUM_MS),
    "arrival": lambda: RoundRobin(math.inf),
}


def arrivals(load: float, seconds: float, seed: int) -> list[Job]:
    """Poisson arrivals of all kinds, which together are `load` of the engine's time in full batches."""
    dice, found = random.Random(seed), []
    capacity = BATCH_MS / (BATCH_MS + FIXED_MS)
    for kind, (work_ms, part) in KINDS.items():
        moment = 0.0
        while (moment := moment + dice.expovariate(load * capacity * part / work_ms)) < seconds * 1000:
            found.append((moment, kind, work_ms))
    return [Job(key, kind, moment, work_ms) for key, (moment, kind, work_ms) in enumerate(sorted(found))]


def simulate(order: Order, jobs: Sequence[Job]) -> None:
    """Run all jobs to their ends."""
    now, num_added = 0.0, 0
    while num_added < len(jobs) or order.turn() is not None:
        if order.turn() is None:
            now = max(now, jobs[num_added].arrived_ms)
        while num_added < len(jobs) and jobs[num_added].arrived_ms <= now:
            order.add(jobs[num_added])
            num_added += 1
        ended = list(run_batch(order))
        now += FIXED_MS + sum(milliseconds for _, milliseconds in ended)
        for job, _ in ended:
            if job.left_ms <= 0:
                job.ended_ms = now


def run_batch(order: Order) -> Iterator[tuple[Job, float]]:
    room = BATCH_MS
    order.begin_batch()
    while room > 0 and (turn := order.turn()) is not None:
        job, limit = turn
        part = min(room, limit, job.left_ms)
        room -= part
        job.left_ms -= part
        order.took(job, part)
        yield job, part


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1000.0)
    parser.add_argument("--loads", type=float, nargs="*", default=[0.5, 0.8, 0.95])
    arguments = parser.parse_args()
    print("| load | order | " + " | ".join(f"{kind}: mean / p99 ms" for kind in KINDS) + " |")
    print("|---|---|" + "---|" * len(KINDS))
    for load in arguments.loads:
        for name, make in ORDERS.items():
            jobs = arrivals(load, arguments.seconds, seed=1)
            simulate(make(), jobs)
            took = {kind: [job.ended_ms - job.arrived_ms for job in jobs if job.kind == kind] for kind in KINDS}
            cells = [f"{np.mean(own):.0f} / {np.percentile(own, 99):.0f}" for own in took.values()]
            print(f"| {load} | {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
