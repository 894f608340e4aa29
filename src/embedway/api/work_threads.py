"""Threads for what would hold up the event loop: tokenizing large requests, and writing large answers.

What waits runs in the order of its turns, each its arrival put back by GIVES_WAY for every unit of its size: small work
passes large work, which is put back no further as it waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import heapq
import itertools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from embedway.models.cpu_threads import available_cores

ResultT = TypeVar("ResultT")

LARGE = 100_000
"""A tenth of a second of tokenizing, in characters: one thread is kept for what is smaller."""
GIVES_WAY = 8


@dataclass(slots=True, eq=False)
class _Work:
    size: int
    run: Callable[[], Any] | None
    result: asyncio.Future[Any] | None
    """None, both, once nobody waits: until its turn it is to keep neither texts alive nor an error's frames"""


class WorkThreads:
    """Belongs to one event loop."""

    def __init__(self, num_threads: int | None = None) -> None:
        """At least two. By default one a core: a tokenizer's thread lets the others work."""
        self._num_threads = max(2, num_threads or available_cores())
        self._threads = ThreadPoolExecutor(self._num_threads, thread_name_prefix="work")
        self._small: list[tuple[int, int, _Work]] = []
        self._large: list[tuple[int, int, _Work]] = []
        self._numbers = itertools.count()
        self._begun_size = 0
        """Of all work so far: the clock of the turns"""
        self._num_running = 0
        self._num_large_running = 0

    def close(self) -> None:
        """Begin nothing any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def run(self, size: int, work: Callable[[], ResultT]) -> ResultT:
        """Run `work` in a thread once it is its turn. Who is cancelled before that takes it away.

        `size` is about how many characters it goes through, or numbers it writes.
        """
        self._loop = asyncio.get_running_loop()
        result: asyncio.Future[ResultT] = self._loop.create_future()
        turn = self._begun_size + GIVES_WAY * size
        waiting = self._large if size > LARGE else self._small
        queued = _Work(size, work, result)
        heapq.heappush(waiting, (turn, next(self._numbers), queued))
        self._begin()
        try:
            return await result
        finally:
            queued.run = queued.result = None
            del result  # it has the error that it brings, which has this frame: neither would be freed

    def _begin(self) -> None:
        while self._num_running < self._num_threads and (work := self._next()) is not None:
            if work.run is None:
                continue  # nobody waits for it any more
            self._begun_size += work.size
            self._num_running += 1
            self._num_large_running += work.size > LARGE
            self._threads.submit(work.run).add_done_callback(functools.partial(self._tell, work))

    def _next(self) -> _Work | None:
        """Take the work whose turn it is, of what may begin now."""
        queues = [self._small]
        if self._num_large_running < self._num_threads - 1:
            queues.append(self._large)
        waiting = min((queue for queue in queues if queue), key=lambda queue: queue[0][:2], default=None)
        return None if waiting is None else heapq.heappop(waiting)[2]

    def _tell(self, work: _Work, ended: Future[Any]) -> None:
        """In the work's thread."""
        with contextlib.suppress(RuntimeError):  # raised where the loop is closed: the process ends
            self._loop.call_soon_threadsafe(self._end, work, ended)

    def _end(self, work: _Work, ended: Future[Any]) -> None:
        self._num_running -= 1
        self._num_large_running -= work.size > LARGE
        if work.result is not None and not work.result.done():
            error = ended.exception()
            if error is None:
                work.result.set_result(ended.result())
            else:
                work.result.set_exception(error)
        self._begin()
