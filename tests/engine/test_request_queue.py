"""The order of the queue: priority, fair share among equals, and that nothing starves."""

from __future__ import annotations

import gc
import itertools
import sys
import weakref
from dataclasses import dataclass, field

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from embedway.engine.request_queue import AGED_EVERY, AGED_MS, PATIENCE, RequestQueue

SMALL_MS = 5.0


@dataclass(eq=False)
class Job:
    key: int
    work_ms: float
    priority: int = 0
    done_ms: float = field(default=0.0)
    is_small: bool = False

    @property
    def left_ms(self) -> float:
        return self.work_ms - self.done_ms


def add(queue: RequestQueue[Job], job: Job) -> Job:
    queue.add(job, job.left_ms, small_ms=SMALL_MS)
    return job


def run_batch(queue: RequestQueue[Job], batch_ms: float = 10.0) -> list[int]:
    """Take what fits into a batch, as the scheduler does; the keys of all that had a part in it."""
    room, served = batch_ms, []
    job = queue.begin_batch()
    while job is not None and room > 0:
        part = min(room, job.left_ms)
        room -= part
        job.done_ms += part
        served.append(job.key)
        queue.served(part)
        if job.left_ms <= 0:
            queue.remove(job)
        job = queue.first()
    return served


def order(queue: RequestQueue[Job]) -> list[int]:
    """Of a queue that is emptied one by one."""
    keys = []
    while (job := queue.first()) is not None:
        keys.append(job.key)
        queue.remove(job)
    return keys


def test_larger_priorities_go_first_and_equals_by_arrival() -> None:
    queue = RequestQueue[Job]()
    for key, priority in enumerate([0, 5, -3, 5, 0, 2**62]):
        add(queue, Job(key, 1.0, priority))
    assert order(queue) == [5, 1, 3, 0, 4, 2]


def test_a_query_goes_before_the_rest_of_a_long_list_that_came_first() -> None:
    queue = RequestQueue[Job]()
    add(queue, Job(1, work_ms=1000))
    assert run_batch(queue) == [1]
    add(queue, Job(2, work_ms=1))
    assert run_batch(queue) == [2, 1]


def test_a_list_waits_in_proportion_to_its_work_among_more_queries_than_there_is_time_for() -> None:
    """Ten times a query's work: it begins once it has waited for as much, and the queries that come then wait, too,
    which gives them turns between its parts."""
    queue = RequestQueue[Job]()
    add(queue, Job(0, work_ms=100))
    batches = 0
    while 0 in queue_keys(queue):
        batches += 1
        add(queue, Job(batches, work_ms=10))  # a query for every batch: all that the machine can do
        run_batch(queue)
    patience = (10 - 1) * PATIENCE * SMALL_MS
    assert patience < batches * 10 <= 2 * patience + 100


def queue_keys(queue: RequestQueue[Job]) -> set[int]:
    return {job.key for job in queue.requests()}


def test_lists_of_one_length_end_one_after_the_other() -> None:
    """None is stretched over the time of both."""
    queue = RequestQueue[Job]()
    add(queue, Job(1, work_ms=50))
    add(queue, Job(2, work_ms=50))
    assert [run_batch(queue) for _ in range(10)] == [[1]] * 5 + [[2]] * 5


def test_the_lowest_priority_does_not_starve_under_more_important_work_than_there_is_time_for() -> None:
    queue = RequestQueue[Job]()
    starved = add(queue, Job(0, work_ms=30, priority=-9))
    batches = 0
    for key in range(1, 100_000):
        add(queue, Job(key, work_ms=10, priority=9))
        run_batch(queue)
        batches += 1
        if starved.left_ms <= 0:
            break
    assert AGED_MS / 10 < batches <= AGED_MS / 10 + AGED_EVERY * 4


def test_nobody_s_wait_is_out_of_proportion_where_all_are_of_about_one_size() -> None:
    """Sixteen clients that send one after the other: where the shortest went first, the longest waited four times as
    long as the others."""
    queue, random, now = RequestQueue[Job](), np.random.default_rng(0), 0.0
    jobs = {key: add(queue, Job(key, random.uniform(60, 100))) for key in range(16)}
    began = dict.fromkeys(jobs, 0.0)
    took: list[float] = []
    while len(took) < 1000:
        run_batch(queue)
        now += 10
        for key in [key for key, job in jobs.items() if job.left_ms <= 0]:
            del jobs[key]
            took.append(now - began.pop(key))
            new = 16 + len(took)
            jobs[new], began[new] = add(queue, Job(new, random.uniform(60, 100))), now
    assert max(took) < 1.6 * np.mean(took[16:])


jobs = st.lists(st.tuples(st.floats(0.5, 200), st.integers(-3, 3), st.integers(0, 5)), min_size=1, max_size=40)
"""Work, priority, and how many batches are run before the next one comes"""


@given(jobs)
def test_every_job_is_done_whole_and_once(arrivals: list[tuple[float, int, int]]) -> None:
    queue = RequestQueue[Job]()
    all_jobs = []
    for key, (work, priority, batches) in enumerate(arrivals):
        all_jobs.append(add(queue, Job(key, work, priority)))
        for _ in range(batches):
            run_batch(queue)
    for _ in range(10_000):
        if not run_batch(queue):
            break
    assert len(queue) == 0
    assert queue.first() is None
    assert all(abs(job.left_ms) < 1e-9 for job in all_jobs)


@given(jobs, st.integers(0, 39), st.integers(-5, 5))
def test_the_wait_is_bounded_whatever_comes_later(
    arrivals: list[tuple[float, int, int]], watched: int, later: int
) -> None:
    """What is old gets one batch of four: what came before, and the job itself, take at most four times longer."""
    queue = RequestQueue[Job]()
    before = [add(queue, Job(key, work, priority)) for key, (work, priority, _) in enumerate(arrivals)]
    job = before[watched % len(before)]
    older_ms = sum(other.work_ms for other in before[: before.index(job) + 1])
    limit = AGED_MS / 10 + AGED_EVERY * (older_ms / 10 + len(before) + 1)
    batches = 0
    while job.left_ms > 0:
        add(queue, Job(1000 + batches, 10, later))
        run_batch(queue)
        batches += 1
        assert batches <= limit


@given(jobs)
def test_nobody_is_overtaken_by_what_comes_later_and_is_no_smaller(arrivals: list[tuple[float, int, int]]) -> None:
    queue = RequestQueue[Job]()
    all_jobs: list[Job] = []
    begun: list[int] = []
    for key, (work, _, batches) in enumerate(arrivals):
        all_jobs.append(add(queue, Job(key, work)))
        for _ in range(batches):
            begun += run_batch(queue)
    while served := run_batch(queue):
        begun += served
    first, last = {}, {}
    for i, key in enumerate(begun):
        first.setdefault(key, i)
        last[key] = i
    for one, other in itertools.combinations(all_jobs, 2):
        assert one.work_ms > other.work_ms or last[one.key] < first[other.key]


@given(jobs)
def test_the_order_depends_on_the_queue_alone(arrivals: list[tuple[float, int, int]]) -> None:
    """Requests that came and went leave no trace."""
    one, other = RequestQueue[Job](), RequestQueue[Job]()
    for key, (work, priority, _) in enumerate(arrivals):
        add(one, Job(key, work, priority))
        gone = add(other, Job(1000 + key, work / 2, priority))
        add(other, Job(key, work, priority))
        other.remove(gone)
    assert order(one) == order(other)


def test_equal_work_is_served_in_the_order_of_arrival_between_smaller_ones() -> None:
    queue = RequestQueue[Job]()
    for key, work in enumerate([50, 10, 50, 10]):
        add(queue, Job(key, work))
    assert order(queue) == [1, 3, 0, 2]


def test_what_was_cancelled_behind_others_takes_no_memory() -> None:
    """A large request's place in the order may be hours away, and the oldest one's turn, too."""
    queue = RequestQueue[Job]()
    add(queue, Job(-1, 1.0))
    gone: list[weakref.ref[Job]] = []
    sizes: list[int] = []
    for key in range(20_000):
        job = add(queue, Job(key, 1e6))
        gone.append(weakref.ref(job))
        queue.remove(job)
        sizes.append(sum(map(sys.getsizeof, vars(queue).values())))
    del job
    gc.collect()
    assert not [ref for ref in gone if ref() is not None]
    assert max(sizes[10_000:]) <= max(sizes[:10_000])
    assert order(queue) == [-1]


def test_of_the_large_ones_the_first_is_found_behind_small_ones() -> None:
    queue = RequestQueue[Job]()
    assert queue.first(large=True) is None
    add(queue, Job(1, SMALL_MS, is_small=True))
    assert queue.first(large=True) is None
    long, longer = add(queue, Job(2, 500.0)), add(queue, Job(3, 5000.0))
    for found in (long, longer):
        assert (first := queue.first()) is not None
        assert first.key == 1
        assert queue.first(large=True) is found
        queue.remove(found)
    assert queue.first(large=True) is None


def test_a_large_one_of_lower_priority_is_not_found_behind_a_small_one() -> None:
    queue = RequestQueue[Job]()
    add(queue, Job(1, 500.0))
    small = add(queue, Job(2, SMALL_MS, priority=1, is_small=True))
    assert queue.first(large=True) is None
    queue.remove(small)
    assert (first := queue.first(large=True)) is not None
    assert first.key == 1
