"""The order of the queue: priority, fair share among equals, and that nothing starves."""

from __future__ import annotations

import gc
import sys
import weakref
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from embedway.engine.request_queue import AGED_EVERY, AGED_MS, GIVES_WAY, RequestQueue


@dataclass(eq=False)
class Job:
    key: int
    work_ms: float
    priority: int = 0
    done_ms: float = field(default=0.0)

    @property
    def left_ms(self) -> float:
        return self.work_ms - self.done_ms


def add(queue: RequestQueue[Job], job: Job) -> Job:
    queue.add(job, job.left_ms)
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
        else:
            queue.has_left(job, job.left_ms)
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


def test_the_nearer_a_list_is_to_its_end_the_fewer_go_before_it() -> None:
    """A list of 100 ms gives way to what comes within 800 ms, and less with each part of it that is done."""
    queue = RequestQueue[Job]()
    bulk = add(queue, Job(0, work_ms=100))
    key = 0
    while 0 in queue_keys(queue):
        key += 1
        add(queue, Job(key, work_ms=10))  # a query for every batch: all that the machine can do
        run_batch(queue)
        assert key * 10 <= GIVES_WAY * bulk.work_ms + bulk.work_ms + 20
    assert key > 10


def queue_keys(queue: RequestQueue[Job]) -> set[int]:
    return {job.key for job in queue.requests()}


def test_lists_of_one_length_take_turns_no_longer_than_need_be() -> None:
    """Shortest remaining time first: one ends after the other, none is stretched over the time of both."""
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
    for key, work in enumerate([5, 1, 5, 1]):
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


def test_a_large_request_that_gives_way_for_long_takes_no_memory() -> None:
    queue = RequestQueue[Job]()
    large = add(queue, Job(0, 1e9))
    sizes: list[int] = []
    for _ in range(20_000):
        large.done_ms += 1.0
        queue.has_left(large, large.left_ms)
        sizes.append(sum(map(sys.getsizeof, vars(queue).values())))
    assert max(sizes[10_000:]) <= max(sizes[:10_000])
    assert order(queue) == [0]
