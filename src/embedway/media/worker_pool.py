"""The decode workers of an API process: who runs what next, and what becomes of an item whose worker fails on it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from dataclasses import dataclass, field

from embedway.errors import ShuttingDown
from embedway.media.limits import MIB
from embedway.media.refusal import Refusal
from embedway.media.worker_messages import Setup
from embedway.media.worker_process import WorkerDied, WorkerProcess
from embedway.visual import MediaKind, Visual

BYTES_PER_SECOND_OF_WAIT = 4 * MIB
"""A file waits as if it had come a second later for each so many bytes: small ones go first, and none for ever"""


class MediaQueueFull(Exception):
    """More bytes wait to be decoded than may."""


@dataclass(order=True, slots=True)
class _Job:
    turn: float
    arrival: int
    kind: MediaKind = field(compare=False)
    data: bytes = field(compare=False)
    answer: asyncio.Future[Visual | Refusal] = field(compare=False)
    is_waiting: bool = field(default=True, compare=False)


class WorkerPool:
    """At most `num_workers` workers, each started when all others are busy, and replaced when it had to be killed."""

    def __init__(self, setup: Setup, num_workers: int) -> None:
        self._setup = setup
        self._num_workers = num_workers
        self._arrivals = itertools.count()
        self._waiting: list[_Job] = []
        self._waiting_bytes = 0
        self._idle: list[WorkerProcess] = []
        self._busy: dict[asyncio.Task[None], _Job] = {}

    def submit(self, kind: MediaKind, data: bytes) -> asyncio.Future[Visual | Refusal]:
        """Queue a file. Raises MediaQueueFull.

        Cancelling the future takes it out of the queue. What is being decoded is decoded to its end, `timeout_seconds`
        at most: it nearly always takes less than starting another worker.
        """
        if self._waiting_bytes + len(data) > self._setup.limits.max_queued_bytes:
            raise MediaQueueFull
        loop = asyncio.get_running_loop()
        turn = loop.time() + len(data) / BYTES_PER_SECOND_OF_WAIT
        job = _Job(turn, next(self._arrivals), kind, data, loop.create_future())
        heapq.heappush(self._waiting, job)
        self._waiting_bytes += len(data)
        job.answer.add_done_callback(lambda _: self._leave_queue(job))
        self._start_next()
        return job.answer

    async def close(self) -> None:
        """Kill all workers; whoever still waits gets ShuttingDown."""
        jobs, tasks = [*self._waiting, *self._busy.values()], list(self._busy)
        for job in jobs:
            if not job.answer.done():
                job.answer.set_exception(ShuttingDown())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(worker.kill() for worker in self._idle))
        self._idle.clear()

    def _start_next(self) -> None:
        while self._waiting and len(self._busy) < self._num_workers:
            job = heapq.heappop(self._waiting)
            if not job.is_waiting:
                continue
            job.is_waiting = False
            self._waiting_bytes -= len(job.data)
            task = asyncio.get_running_loop().create_task(self._run(job))
            self._busy[task] = job
            task.add_done_callback(self._finished)

    def _leave_queue(self, job: _Job) -> None:
        """A file that nobody waits for any more is let go of at once."""
        if job.is_waiting:
            job.is_waiting = False  # its place in the heap is void
            self._waiting_bytes -= len(job.data)
            job.data = b""

    def _finished(self, task: asyncio.Task[None]) -> None:
        del self._busy[task]
        self._start_next()

    async def _run(self, job: _Job) -> None:
        try:
            answer = await self._decode(job)
        except Exception as error:  # no worker could be started
            if not job.answer.done():
                job.answer.set_exception(error)
        else:
            if not job.answer.done():
                job.answer.set_result(answer)

    async def _decode(self, job: _Job) -> Visual | Refusal:
        worker = await self._free_worker()
        seconds = self._setup.limits.timeout_seconds
        try:
            answer = await asyncio.wait_for(worker.run(job.kind, job.data), seconds)
        except asyncio.TimeoutError:
            await worker.kill()
            return Refusal(f"decoding it took longer than {seconds:g} seconds")
        except WorkerDied:
            await worker.kill()
            return Refusal("the decoder failed on it")
        except BaseException:  # cancelled, or an answer that makes no sense
            await worker.kill()
            raise
        self._idle.append(worker)
        return answer

    async def _free_worker(self) -> WorkerProcess:
        while self._idle:
            worker = self._idle.pop()
            if worker.is_alive:  # one that was killed while it had nothing to do costs no item
                return worker
            await worker.kill()
        return await WorkerProcess.start(self._setup)
