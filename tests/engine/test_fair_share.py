"""Equal parts of the engine for keys that have work, whatever each sends; nothing for those that had none."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedway.engine.batch_time_model import BatchTime, BatchTimeModel
from embedway.engine.fair_share import FairShareQueue
from embedway.engine.request_queue import AGED_EVERY, AGED_MS, RequestQueue
from embedway.engine.scheduler import QueuedRequest, Scheduler

BATCH_MS = 10.0


@dataclass(eq=False)
class Job:
    key: int
    work_ms: float
    key_number: int = 1
    priority: int = 0
    done_ms: float = field(default=0.0)
    is_small: bool = False

    @property
    def left_ms(self) -> float:
        return self.work_ms - self.done_ms


@dataclass
class Bench:
    """A queue whose batches are taken as the scheduler does it, and what each key got."""

    queue: FairShareQueue[Job] = field(default_factory=FairShareQueue)
    given_ms: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))
    jobs: list[Job] = field(default_factory=list)

    def add(self, work_ms: float, key_number: int = 1, priority: int = 0) -> Job:
        job = Job(len(self.jobs), work_ms, key_number, priority)
        self.jobs.append(job)
        self.queue.add(job, job.left_ms, small_ms=1.0)
        return job

    def run_batch(self) -> list[Job]:
        room, served = BATCH_MS, []
        job = self.queue.begin_batch()
        while job is not None and room > 0:
            part = min(room, job.left_ms)
            room -= part
            job.done_ms += part
            self.given_ms[job.key_number] += part
            served.append(job)
            if job.left_ms <= 0:
                self.queue.remove(job)
            self.queue.served(part)
            job = self.queue.first()
        return served


work = st.floats(0.5, 100)
senders = st.lists(st.tuples(work, st.integers(1, 20), st.integers(-3, 3)), min_size=2, max_size=5)
"""Of each key: the work of each of its requests, how many it always has waiting, and their priority"""


@given(senders)
def test_keys_that_always_have_work_get_equal_parts_whatever_they_send(senders: list[tuple[float, int, int]]) -> None:
    bench = Bench()
    waiting: Counter[int] = Counter()
    for _ in range(60):
        for number, (work_ms, depth, priority) in enumerate(senders, 1):
            enough = max(depth, math.ceil(BATCH_MS / work_ms) + 1)  # for a batch of its own, one begun
            for _ in range(enough - waiting[number]):
                bench.add(work_ms, number, priority)
                waiting[number] += 1
        for job in bench.run_batch():
            if job.left_ms <= 0:
                waiting[job.key_number] -= 1
        given_ms = [bench.given_ms[number] for number in range(1, len(senders) + 1)]
        assert max(given_ms) - min(given_ms) <= BATCH_MS + 1e-6


jobs = st.lists(st.tuples(work, st.integers(1, 3), st.integers(-3, 3), st.integers(0, 5)), min_size=1, max_size=40)
"""Work, key, priority, and how many batches are run before the next one comes"""


@given(jobs)
def test_every_job_is_done_whole_and_once_and_no_batch_is_empty_before(
    arrivals: list[tuple[float, int, int, int]],
) -> None:
    bench = Bench()
    for work_ms, number, priority, batches in arrivals:
        bench.add(work_ms, number, priority)
        for _ in range(batches):
            bench.run_batch()
    while len(bench.queue):
        assert bench.run_batch()
    assert bench.queue.begin_batch() is None
    assert bench.queue.first() is None
    assert bench.queue.requests() == []
    assert all(abs(job.left_ms) < 1e-9 for job in bench.jobs)


@settings(max_examples=25)
@given(jobs, st.integers(0, 39))
def test_the_wait_is_bounded_whatever_others_send(arrivals: list[tuple[float, int, int, int]], watched: int) -> None:
    """A key has a third of the batches here, and of those the oldest request one of AGED_EVERY, once it is old."""
    bench = Bench()
    for work_ms, number, priority, _ in arrivals:
        bench.add(work_ms, number, priority)
    job = bench.jobs[watched % len(bench.jobs)]
    own = [other for other in bench.jobs if other.key_number == job.key_number]
    older_ms = sum(other.work_ms for other in own[: own.index(job) + 1])
    limit = 3 * (AGED_MS / BATCH_MS + AGED_EVERY * (older_ms / BATCH_MS + len(own) + 1) + 1)
    batches = 0
    while job.left_ms > 0:
        for number in (1, 2, 3):
            bench.add(BATCH_MS, number, priority=9)
        bench.run_batch()
        batches += 1
        assert batches <= limit


@given(jobs)
def test_a_key_that_is_alone_has_the_order_of_a_queue_without_keys(arrivals: list[tuple[float, int, int, int]]) -> None:
    shared, plain = Bench(), Bench()
    plain.queue = RequestQueue[Job]()  # ty: ignore[invalid-assignment] - the same methods
    for work_ms, _, priority, batches in arrivals:
        for bench in (shared, plain):
            bench.add(work_ms, 7, priority)
        for _ in range(batches):
            assert [job.key for job in shared.run_batch()] == [job.key for job in plain.run_batch()]


def test_being_idle_earns_no_credit() -> None:
    bench = Bench()
    bench.add(1, 2)
    bench.run_batch()
    bench.add(5000, 1)
    for _ in range(100):  # a second for the first key alone
        bench.run_batch()
    bench.add(5000, 2)
    before = dict(bench.given_ms)
    for _ in range(50):
        bench.run_batch()
    gained = [bench.given_ms[number] - before[number] for number in (1, 2)]
    assert abs(gained[0] - gained[1]) <= 2 * BATCH_MS


def test_a_flood_of_small_requests_waits_for_its_own_key_only() -> None:
    bench = Bench()
    for _ in range(1000):
        bench.add(1, 1)
    bench.run_batch()
    late = bench.add(5, 2)
    bench.run_batch()
    assert late.left_ms == 0


def test_a_priority_counts_among_a_key_s_own_requests_only() -> None:
    bench = Bench()
    greedy = [bench.add(BATCH_MS, 1, priority=9) for _ in range(10)]
    modest = [bench.add(BATCH_MS, 2, priority=priority) for priority in (-9, 5)]
    order = [job for _ in range(4) for job in bench.run_batch()]
    assert [job for job in order if job in modest] == [modest[1], modest[0]]
    assert sum(job in greedy for job in order) == 2


def test_what_is_cancelled_leaves_and_costs_its_key_nothing() -> None:
    bench = Bench()
    gone, stays = bench.add(50, 1), bench.add(5, 2)
    assert (bench.queue.get(gone.key), len(bench.queue)) == (gone, 2)
    bench.queue.remove(gone)
    assert (bench.queue.get(gone.key), len(bench.queue)) == (None, 1)
    assert bench.queue.requests() == [stays]
    assert bench.run_batch() == [stays]
    assert bench.run_batch() == []


@pytest.mark.parametrize("shares_by_key", [True, False])
def test_the_scheduler_gives_each_key_its_part_of_the_time_where_keys_share(shares_by_key: bool) -> None:
    """A hundred requests of one document each against one key with another, which came last."""
    time_model = BatchTimeModel([BatchTime(n, n * k, 1 + n * 0.01) for n, k in [(1, 1), (10, 5), (200, 50), (900, 90)]])
    queue = FairShareQueue[QueuedRequest]() if shares_by_key else None
    scheduler = Scheduler(max_batch_tokens=10_000, target_ms=10, time_model=time_model, queue=queue)
    for key in range(101):
        cu_seqlens = np.array([0, 100], dtype=np.int32)
        ids = np.zeros(100, dtype=np.int32)
        scheduler.add(QueuedRequest(key, ids, cu_seqlens, key_number=2 if key == 100 else 1))
    first = [piece.request.key for piece in scheduler.next_batch()]
    assert (100 in first) == shares_by_key
    assert len(first) > 1
    taken = len(first)
    while slices := scheduler.next_batch():
        taken += len(slices)
    assert taken == 101
    assert scheduler.queued_tokens == 0


def test_of_the_large_ones_that_of_the_key_with_least_is_found() -> None:
    queue = FairShareQueue[Job]()
    jobs = [Job(0, 1.0, key_number=1, is_small=True), *(Job(n, 100.0, key_number=n) for n in (2, 3))]
    for job in jobs:
        queue.add(job, job.left_ms, small_ms=1.0)
    assert queue.first() is jobs[0]
    assert queue.first(large=True) is jobs[1]
    queue.served(10.0)  # the turn is that of the key whose request was given
    assert queue.first() is jobs[0]
    assert queue.first(large=True) is jobs[2]
    queue.remove(jobs[1])
    queue.remove(jobs[2])
    assert queue.first(large=True) is None
    assert queue.first() is jobs[0]
