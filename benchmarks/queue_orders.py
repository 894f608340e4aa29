"""Which order of the queue is better, simulated: python -m benchmarks.queue_orders

The queue's own (highest response ratio, with ageing) beside fewest remaining first with ageing, deficit round robin
between requests (Shreedhar and Varghese, SIGCOMM 1995) and arrival: the same arrivals, the same batches of at most
BATCH_MS, no clock, no model. Work can be cut anywhere, and a batch takes what is in it and FIXED_MS. First requests of
all kinds at random moments, then clients that send one request of a kind after the other.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from embedway.engine.request_queue import RequestQueue

BATCH_MS, FIXED_MS = 20.0, 1.0
QUANTUM_MS = 5.0
"""What a request gets in each round: a document's work"""
KINDS = {"query": (1.0, 0.30), "document": (5.0, 0.20), "64 documents": (320.0, 0.35), "2048 items": (5000.0, 0.15)}
"""Mean milliseconds of work of a request, and its kind's part of all work"""
SMALL_MS = 5.0
"""Of a request that is as small as a query may be"""
SPREAD = (0.5, 1.5)
"""A request has so many times its kind's mean"""
CLIENTS = {"document": 64, "64 documents": 4, "2048 items": 4}
"""That send one request of this kind after the other"""
GIVES_WAY, AGED_MS, AGED_EVERY = 1000.0, 5000.0, 4
"""Of fewest remaining first: a request's turn is its arrival, put back by GIVES_WAY for each millisecond it has left"""


@dataclass(slots=True, eq=False)
class Job:
    key: int
    kind: str
    arrived_ms: float
    left_ms: float
    priority: int = 0
    ended_ms: float = field(default=math.nan)
    is_small: bool = False


class Order(Protocol):
    def add(self, job: Job) -> None: ...

    def begin_batch(self) -> None: ...

    def turn(self) -> tuple[Job, float] | None:
        """Whose turn it is, and how many milliseconds it may have in that."""
        ...

    def took(self, job: Job, milliseconds: float) -> None:
        """The job got so much; it is over where nothing is left."""
        ...


class ResponseRatio:
    def __init__(self) -> None:
        self._queue = RequestQueue[Job]()
        self._next: Job | None = None

    def add(self, job: Job) -> None:
        self._queue.add(job, job.left_ms, small_ms=SMALL_MS)

    def begin_batch(self) -> None:
        self._next = self._queue.begin_batch()

    def turn(self) -> tuple[Job, float] | None:
        job, self._next = self._next or self._queue.first(), None
        return None if job is None else (job, math.inf)

    def took(self, job: Job, milliseconds: float) -> None:
        self._queue.served(milliseconds)
        if job.left_ms <= 0:
            self._queue.remove(job)


class FewestRemaining:
    """One batch of every AGED_EVERY begins with the oldest request, once that has waited for AGED_MS."""

    def __init__(self) -> None:
        self._jobs: dict[int, tuple[Job, float]] = {}
        """And how much had been served as they came"""
        self._heap: list[tuple[float, int]] = []
        """Turns and keys; those of jobs that have gone, and older turns, are void"""
        self._turns: dict[int, float] = {}
        self._served_ms = 0.0
        self._batches_since_aged = 0
        self._next: Job | None = None

    def add(self, job: Job) -> None:
        self._jobs[job.key] = (job, self._served_ms)
        self._place(job)

    def _place(self, job: Job) -> None:
        self._turns[job.key] = self._jobs[job.key][1] + GIVES_WAY * job.left_ms
        heapq.heappush(self._heap, (self._turns[job.key], job.key))

    def begin_batch(self) -> None:
        self._batches_since_aged += 1
        oldest, arrived_ms = next(iter(self._jobs.values()), (None, math.inf))
        if self._served_ms - arrived_ms > AGED_MS and self._batches_since_aged >= AGED_EVERY:
            self._batches_since_aged, self._next = 0, oldest

    def turn(self) -> tuple[Job, float] | None:
        if self._next is not None:
            job, self._next = self._next, None
            return job, math.inf
        while self._heap and self._turns.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return (self._jobs[self._heap[0][1]][0], math.inf) if self._heap else None

    def took(self, job: Job, milliseconds: float) -> None:
        self._served_ms += milliseconds
        if job.left_ms > 0:
            self._place(job)
        else:
            del self._jobs[job.key], self._turns[job.key]


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
    "response ratio, ageing": ResponseRatio,
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
            found.append((moment, kind, work_ms * dice.uniform(*SPREAD)))
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
        now = run_batch(order, now)


def take_turns(order: Order, kind: str, seconds: float) -> list[Job]:
    """The jobs of a kind's clients, each of whom sends the next one as the last has ended."""
    dice, now = random.Random(1), 0.0
    jobs: list[Job] = []
    waiting: list[Job] = []
    while now < seconds * 1000:
        ended = [job for job in waiting if job.left_ms <= 0]
        for _ in range(len(ended) if jobs else CLIENTS[kind]):
            job = Job(len(jobs), kind, now, KINDS[kind][0] * dice.uniform(*SPREAD))
            jobs.append(job)
            waiting.append(job)
            order.add(job)
        waiting = [job for job in waiting if job.left_ms > 0]
        now = run_batch(order, now)
    return [job for job in jobs if job.left_ms <= 0]


def run_batch(order: Order, now: float) -> float:
    """When it ends"""
    room, parts = BATCH_MS, []
    order.begin_batch()
    while room > 0 and (turn := order.turn()) is not None:
        job, limit = turn
        part = min(room, limit, job.left_ms)
        room -= part
        job.left_ms -= part
        order.took(job, part)
        parts.append((job, part))
    now += FIXED_MS + sum(part for _, part in parts)
    for job, _ in parts:
        if job.left_ms <= 0:
            job.ended_ms = now
    return now


def cell(jobs: Iterable[Job]) -> str:
    took = [job.ended_ms - job.arrived_ms for job in jobs]
    return f"{np.mean(took):.0f} / {np.percentile(took, 99):.0f}"


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
            cells = [cell(job for job in jobs if job.kind == kind) for kind in KINDS]
            print(f"| {load} | {name} | " + " | ".join(cells) + " |", flush=True)
    print("\n| order | " + " | ".join(f"{count} × {kind}: mean / p99 ms" for kind, count in CLIENTS.items()) + " |")
    print("|---|" + "---|" * len(CLIENTS))
    for name, make in ORDERS.items():
        cells = [cell(take_turns(make(), kind, arguments.seconds)) for kind in CLIENTS]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
