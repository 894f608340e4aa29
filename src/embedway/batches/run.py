"""One batch, from the first request that is not done to its end: some requests at once, written down in their order.

What is committed is safe on the disk, and everything behind it is done again after a crash: in the output a request is
never missing, and never there twice.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from embedway.batches import batch_table
from embedway.batches.index import IndexReader, Request
from embedway.batches.outputs import Outputs
from embedway.batches.records import BatchRecord, FileRecord
from embedway.batches.results import Answer, EndedBy, Result, answered, unanswered

if TYPE_CHECKING:
    import sqlite3

    from embedway.batches.states import Status
    from embedway.batches.storage import Storage

logger = logging.getLogger("embedway.batches")

AnswerLine: TypeAlias = Callable[[bytes], Awaitable[Answer]]
"""A request's body → what the server says to it; waits for as long as the server has too much to do"""
OnResult: TypeAlias = Callable[[bool], object]
"""Told of each request that is over, and whether it is completed"""

ENDS: dict[EndedBy, Status] = {"batch_expired": "expired", "batch_cancelled": "cancelled"}
MAX_REQUESTS = 32
"""At once, of a batch: some thousand tokens, which keep an engine busy and take no place in its queue for long"""
MAX_INPUTS = 2048
"""Of those, as many as one large request has: their answers are in memory until they are written. One request that has
more by itself is done alone"""
MAX_BYTES = 1 << 20
"""Of their bodies, likewise"""
COMMIT_SECONDS = 1.0
"""How much is done again after a crash, and how soon a cancellation or the window's end is seen"""
COMMIT_BYTES = 4 << 20
UNDONE_AT_ONCE = 1000
"""Requests that are written off together once a batch is cancelled, or its time over"""


@dataclass(slots=True, eq=False)
class BatchRun:
    """Made by `run_batch`. Belongs to one event loop."""

    storage: Storage
    batch: BatchRecord
    answer: AnswerLine
    on_result: OnResult
    clock: Callable[[], float]
    reader: IndexReader
    outputs: Outputs
    ended_by: EndedBy | None = None
    """Why no further requests are begun"""
    _running: deque[tuple[Request, asyncio.Task[Answer]]] = field(default_factory=deque)
    _done: list[Result] = field(default_factory=list)
    """In their order, and not committed"""
    _committed_at: float = field(default_factory=time.monotonic)

    async def run(self) -> EndedBy | None:
        """Do what there is to do, until all is committed; None: every request had its answer."""
        try:
            self._look_at(self.batch.status)
            while self.ended_by is None and await self._fill():
                await asyncio.wait([self._running[0][1]], timeout=self._seconds_to_commit())
                self._take_answers()
                if self._is_time_to_commit():
                    await self._commit()
            await self._write_off_running()
            await self._commit()
            if self.ended_by is not None:
                await self._write_off_rest(self.ended_by)
        finally:
            await self._cancel_running()
        return self.ended_by

    async def _fill(self) -> bool:
        """Begin as many requests as may run at once; False where none is left."""
        if self._has_room():
            for request in await self.storage.on_disk(self._read):
                self._running.append((request, asyncio.ensure_future(self.answer(request.body))))
                await asyncio.sleep(0)  # it is read and tokenized now: together they would hold the event loop for long
        return bool(self._running)

    def _has_room(self) -> bool:
        return len(self._running) <= MAX_REQUESTS // 2  # a hop to a thread for several of them

    def _read(self) -> list[Request]:
        """In a thread: as many as may run beside those that do."""
        entries = [request.entry for request, _ in self._running]
        inputs, size = sum(entry.inputs for entry in entries), sum(entry.length for entry in entries)
        read: list[Request] = []
        while (entry := self.reader.peek()) is not None and len(entries) + len(read) < MAX_REQUESTS:
            inputs, size = inputs + entry.inputs, size + entry.length
            if (entries or read) and (inputs > MAX_INPUTS or size > MAX_BYTES):
                break
            read.append(self.reader.read())
        return read

    def _take_answers(self) -> None:
        """Those at the head: what is behind one that runs still keeps its place. Raises what a task did."""
        while self._running and self._running[0][1].done():
            request, task = self._running.popleft()
            self._done.append(answered(request.entry, task.result(), request.index_end))

    def _seconds_to_commit(self) -> float:
        return max(0.0, self._committed_at + COMMIT_SECONDS - time.monotonic())

    def _is_time_to_commit(self) -> bool:
        return not self._seconds_to_commit() or sum(result.size for result in self._done) > COMMIT_BYTES

    async def _commit(self) -> None:
        results, self._done = self._done, []
        batch_id = self.batch.id
        if results:
            progress = await self.storage.on_disk(lambda: self.outputs.write(results))
            status = await self.storage.query(lambda database: batch_table.save_progress(database, batch_id, progress))
        else:
            status = await self.storage.query(lambda database: batch_table.status_of(database, batch_id))
        for result in results:
            self.on_result(result.is_completed)
        self._look_at(status)
        self._committed_at = time.monotonic()

    def _look_at(self, status: str) -> None:
        if status == "cancelling":
            self.ended_by = "batch_cancelled"
        elif status == "in_progress" and self.clock() >= self.batch.expires_at:
            self.ended_by = "batch_expired"

    async def _write_off_running(self) -> None:
        """Once nothing more is begun: those that have their answers by now keep them."""
        if self.ended_by is None:
            return
        running, self._running = self._running, deque()
        for _, task in running:
            task.cancel()
        await asyncio.gather(*(task for _, task in running), return_exceptions=True)
        for request, task in running:
            if task.cancelled() or task.exception() is not None:
                self._done.append(unanswered(request.entry, self.ended_by, request.index_end))
            else:
                self._done.append(answered(request.entry, task.result(), request.index_end))

    async def _write_off_rest(self, ended_by: EndedBy) -> None:
        def some() -> list[Result]:
            results: list[Result] = []
            while self.reader.peek() is not None and len(results) < UNDONE_AT_ONCE:
                entry, index_end = self.reader.skip()
                results.append(unanswered(entry, ended_by, index_end))
            return results

        while results := await self.storage.on_disk(some):
            self._done = results
            await self._commit()

    async def _cancel_running(self) -> None:
        for _, task in self._running:
            task.cancel()
        await asyncio.gather(*(task for _, task in self._running), return_exceptions=True)
        self._running.clear()


async def run_batch(
    storage: Storage,
    batch: BatchRecord,
    answer: AnswerLine,
    *,
    on_result: OnResult,
    clock: Callable[[], float],
) -> None:
    """Work a validated batch off, and end it. Raises StorageFull or BatchStorageFault: nothing is lost by that."""
    ended_by = None
    if batch.total:
        outputs = await storage.on_disk(lambda: Outputs(storage.files, batch))
        try:
            reader = await storage.on_disk(lambda: _open_requests(storage, batch))
            try:
                ended_by = await BatchRun(storage, batch, answer, on_result, clock, reader, outputs).run()
            finally:
                reader.close()
        finally:
            outputs.close()
        batch = msgspec.structs.replace(batch, progress=outputs.progress)
    elif batch.status == "cancelling":
        ended_by = "batch_cancelled"  # before it was validated
    await end_batch(storage, batch, ended_by, clock())


async def end_batch(storage: Storage, batch: BatchRecord, ended_by: EndedBy | None, now: float) -> None:
    """Show the batch's files, all at once. Nothing happens where its state has changed meanwhile."""
    status: Status = "completed" if ended_by is None else ENDS[ended_by]
    files = files_of(batch, int(now))

    def finish(database: sqlite3.Connection) -> bool:
        if status == "completed":
            batch_table.become(database, batch.id, "finalizing", now)
        return batch_table.end(database, batch.id, status, now, files)

    if await storage.query(finish):
        logger.info("batch %s is %s: %d requests done, %d not", batch.id, status, *_counts(batch))
        shown = {file.id for file in files}
        empty = {batch.output_file_id, batch.error_file_id} - shown
        await storage.on_disk(lambda: [storage.files.remove(name) for name in (batch.id, *empty)])


def files_of(batch: BatchRecord, now: int) -> list[FileRecord]:
    """The output file and the error file, where there is anything in them."""
    expires_at = None if batch.output_expires_seconds is None else now + batch.output_expires_seconds
    progress = batch.progress
    kinds = [
        (batch.output_file_id, "output", progress.output_bytes),
        (batch.error_file_id, "error", progress.error_bytes),
    ]
    return [
        FileRecord(file_id, batch.owner, "batch_output", f"{batch.id}_{kind}.jsonl", size, now, expires_at)
        for file_id, kind, size in kinds
        if size
    ]


def _counts(batch: BatchRecord) -> tuple[int, int]:
    return batch.progress.completed, batch.progress.failed


def _open_requests(storage: Storage, batch: BatchRecord) -> IndexReader:
    index = storage.files.path(batch.id).open("rb")
    try:
        requests = storage.files.path(batch.input_file_id).open("rb")
    except BaseException:
        index.close()
        raise
    return IndexReader(index, requests, batch.progress.index_bytes)
