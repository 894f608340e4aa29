from __future__ import annotations

import asyncio
import functools
import gc
import threading
import weakref
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedway.api.work_threads import GIVES_WAY, LARGE, WorkThreads


@pytest.fixture
def threads() -> Iterator[WorkThreads]:
    threads = WorkThreads(2)
    yield threads
    threads.close()


async def blocked(threads: WorkThreads, gate: threading.Event, *sizes: int) -> list[asyncio.Task[bool]]:
    """Work of these sizes that runs until the gate is open."""
    tasks = [asyncio.create_task(threads.run(size, lambda: gate.wait(30))) for size in sizes]
    await asyncio.sleep(0)
    return tasks


async def test_small_work_passes_large_work_that_waits(threads: WorkThreads) -> None:
    gate, order = threading.Event(), []
    running = await blocked(threads, gate, 1, 1)
    sizes = [LARGE - 1, 50_000, 20, LARGE - 2, 30]
    waiting = [asyncio.create_task(threads.run(size, lambda size=size: order.append(size))) for size in sizes]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*running, *waiting)
    # two threads take them in this order, and may end neighbours the other way round
    assert order[0] in (20, 30)
    assert set(order[:2]) == {20, 30} or order[1] == 50_000
    assert set(order[-2:]) <= {LARGE - 1, LARGE - 2, 50_000}


async def test_a_thread_is_free_of_large_work_however_much_of_it_waits(threads: WorkThreads) -> None:
    gate = threading.Event()
    large = await blocked(threads, gate, *[LARGE + 1] * 20)
    assert await asyncio.wait_for(threads.run(10, lambda: "done"), 30) == "done"
    gate.set()
    assert all(await asyncio.gather(*large))


async def test_large_work_does_not_starve_behind_small_work(threads: WorkThreads) -> None:
    gate = threading.Event()
    running = await blocked(threads, gate, 1, 1)
    num_small_done = 0
    is_done = False

    async def small_without_end() -> None:
        nonlocal num_small_done
        while not is_done:
            await threads.run(100, lambda: None)
            num_small_done += 1

    large = asyncio.create_task(threads.run(2000, lambda: num_small_done))
    streams = [asyncio.create_task(small_without_end()) for _ in range(8)]
    await asyncio.sleep(0)
    gate.set()
    passed = await asyncio.wait_for(large, 30)
    is_done = True
    await asyncio.gather(*running, *streams)
    assert passed <= 2 * GIVES_WAY * 2000 / 100


async def test_what_nobody_waits_for_any_more_is_not_begun(threads: WorkThreads) -> None:
    gate, begun = threading.Event(), []
    running = await blocked(threads, gate, 1, 1)
    abandoned = asyncio.create_task(threads.run(1, lambda: begun.append(1)))
    await asyncio.sleep(0)
    abandoned.cancel()
    await asyncio.gather(abandoned, return_exceptions=True)
    gate.set()
    await asyncio.gather(*running)
    await threads.run(1, lambda: None)
    assert begun == []


async def test_what_was_taken_away_takes_its_texts_along(threads: WorkThreads) -> None:
    """However far its turn is."""
    gate = threading.Event()
    running = await blocked(threads, gate, 1, 1)
    work = functools.partial(len, "a text")
    held = weakref.ref(work)
    waiting = asyncio.create_task(threads.run(10**6, work))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    del work, waiting
    gc.collect()  # the frames of its error
    assert held() is None
    gate.set()
    await asyncio.gather(*running)


async def test_an_error_reaches_who_waits_and_the_thread_goes_on(threads: WorkThreads) -> None:
    for _ in range(5):
        with pytest.raises(ZeroDivisionError):
            await threads.run(LARGE + 1, lambda: 1 // 0)
    assert await threads.run(LARGE + 1, lambda: 7) == 7


@given(st.lists(st.integers(0, 2 * LARGE), max_size=30))
def test_all_work_is_done_once(sizes: list[int]) -> None:
    async def run() -> list[int]:
        threads, done = WorkThreads(3), []
        await asyncio.gather(*(threads.run(size, lambda i=i: done.append(i)) for i, size in enumerate(sizes)))
        threads.close()
        return done

    assert sorted(asyncio.run(run())) == list(range(len(sizes)))
