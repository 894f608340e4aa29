"""Who works the batches off: one API process of all that share a data folder, for as long as it lives.

It holds a lock on a file, which the kernel takes from a process that dies, however it does: another one then goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

from embedway.batches import batch_table, file_table
from embedway.batches.records import BatchError, Limits, OpenBatch
from embedway.batches.results import Answer
from embedway.batches.run import OnResult, run_batch
from embedway.batches.validator import ValidatorLost, validated
from embedway.errors import BatchStorageFault, StorageFull

if TYPE_CHECKING:
    import sqlite3

    from embedway.batches.records import BatchRecord
    from embedway.batches.storage import Storage
    from embedway.batches.validation import Report

logger = logging.getLogger("embedway.batches")

MAX_RUNNING = 4
"""Batches at once: a large one does not keep the others waiting to its end"""
LOOK_SECONDS = 0.5
"""Between two looks for what other processes were asked to do"""
LOCK_SECONDS = 1.0
PAUSE_SECONDS = 10.0
"""After a fault: a full disk does not get empty at once"""
SWEEP_SECONDS = 60.0
MAX_VALIDATIONS = 3
"""Of a file whose validator dies each time, as of too much memory"""


@dataclass(slots=True, eq=False)
class Runner:
    """Belongs to one event loop. `run` goes on until it is cancelled."""

    storage: Storage
    limits: Limits
    answer: Callable[[str, bytes], Awaitable[Answer]]
    """An owner and a request's body → what the server says to it"""
    model_problem: Callable[[str], str | None]
    """A model's name → why it cannot be served"""
    may_run: Callable[[str], bool]
    """Whether this owner is still one: a key may have been withdrawn"""
    on_result: OnResult
    clock: Callable[[], float] = time.time
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by whoever has something new to do, in this process"""
    _tasks: dict[str, tuple[OpenBatch, asyncio.Task[None]]] = field(default_factory=dict)
    """By the batch's id"""
    _paused: dict[str, float] = field(default_factory=dict)
    """Batches that had a fault → when they are tried again, by the monotonic clock"""
    _lost_validations: Counter[str] = field(default_factory=Counter)

    async def run(self) -> None:
        while True:
            try:
                lock = await self.storage.on_disk(lambda: try_lock(self.storage))
            except (StorageFull, BatchStorageFault):
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            if lock is None:
                await asyncio.sleep(LOCK_SECONDS)
                continue
            with lock:
                await self._lead()

    async def _lead(self) -> None:
        sweeping = asyncio.create_task(self._sweep())
        try:
            while True:
                self.woken.clear()
                await self._begin_what_is_due()
                waking = asyncio.create_task(self.woken.wait())
                running = [task for _, task in self._tasks.values()]
                await asyncio.wait([waking, *running], timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                waking.cancel()
        finally:
            ending = [sweeping, *(task for _, task in self._tasks.values())]
            for task in ending:
                task.cancel()
            await asyncio.gather(*ending, return_exceptions=True)
            self._tasks.clear()

    async def _begin_what_is_due(self) -> None:
        try:
            found = await self.storage.query(batch_table.open_batches)
        except (StorageFull, BatchStorageFault):
            await asyncio.sleep(PAUSE_SECONDS)
            return
        self._tasks = {id_: pair for id_, pair in self._tasks.items() if not pair[1].done()}
        now, moment = self.clock(), time.monotonic()
        self._paused = {id_: until for id_, until in self._paused.items() if until > moment}
        waiting = [
            batch
            for batch in found
            if batch.id not in self._tasks
            and batch.id not in self._paused
            and (self.may_run(batch.owner) or batch.status == "cancelling" or batch.expires_at <= now)
        ]
        for batch in due(waiting, [batch for batch, _ in self._tasks.values()]):
            self._tasks[batch.id] = (batch, asyncio.create_task(self._advance(batch)))

    async def _advance(self, found: OpenBatch) -> None:
        """Do what there is to do for a batch; after a fault it is left alone for a while."""
        try:
            batch = await self.storage.query(lambda database: batch_table.get(database, found.id))
            assert batch is not None, "batches are never removed"
            if batch.status == "validating":
                await self._validate(batch)
            elif batch.is_open:
                answer = functools.partial(self.answer, batch.owner)
                await run_batch(self.storage, batch, answer, on_result=self.on_result, clock=self.clock)
        except (StorageFull, BatchStorageFault) as error:
            logger.error("batch %s waits: %s", found.id, error.message)
            self._paused[found.id] = time.monotonic() + PAUSE_SECONDS
        except Exception:
            logger.exception("batch %s failed, and is tried again", found.id)
            self._paused[found.id] = time.monotonic() + PAUSE_SECONDS

    async def _validate(self, batch: BatchRecord) -> None:
        files, query = self.storage.files, self.storage.query
        if self.clock() >= batch.expires_at:
            await query(lambda database: batch_table.become(database, batch.id, "expired", self.clock()))
            return
        try:
            report = await validated(files.path(batch.input_file_id), files.path(batch.id), self.limits)
        except ValidatorLost:
            self._lost_validations[batch.id] += 1
            if self._lost_validations[batch.id] < MAX_VALIDATIONS:
                raise
            errors = [BatchError("internal_error", "The input file could not be read to its end.")]
        else:
            errors = self._errors_in(report)
        now = self.clock()

        def begin(database: sqlite3.Connection) -> bool:
            columns = {"model": report.model, "total": report.requests}
            return batch_table.become(database, batch.id, "in_progress", now, **columns)

        if not errors:
            await query(begin)
            return
        await query(lambda database: batch_table.become(database, batch.id, "failed", now, errors=errors))
        await self.storage.on_disk(lambda: files.remove(batch.id))

    def _errors_in(self, report: Report) -> list[BatchError]:
        if report.errors or report.model is None:
            return report.errors
        problem = self.model_problem(report.model)
        return [] if problem is None else [BatchError("model_not_found", problem, "body.model")]

    async def _sweep(self) -> None:
        """Remove files whose time is over, and what processes that died have left."""
        while True:
            with contextlib.suppress(StorageFull, BatchStorageFault):
                await sweep(self.storage, self.clock())
            await asyncio.sleep(SWEEP_SECONDS)


def due(waiting: Iterable[OpenBatch], running: Iterable[OpenBatch]) -> list[OpenBatch]:
    """Which of those that wait, the oldest first, begin now: at most one is validated at a time, and MAX_RUNNING run.

    Owners take turns: one that has fewer running comes first.
    """
    running = list(running)
    begun = [batch for batch in waiting if batch.status == "cancelling"]  # that takes a moment
    if not any(batch.status == "validating" for batch in running):
        begun += [batch for batch in waiting if batch.status == "validating"][:1]
    busy = [batch for batch in running if batch.status in ("in_progress", "finalizing")]
    shares = Counter(batch.owner for batch in busy)
    ready = [batch for batch in waiting if batch.status in ("in_progress", "finalizing")]
    while ready and sum(shares.values()) < MAX_RUNNING:
        batch = min(ready, key=lambda one: shares[one.owner])
        ready.remove(batch)
        shares[batch.owner] += 1
        begun.append(batch)
    return begun


def try_lock(storage: Storage) -> BinaryIO | None:
    """The open file, which holds the lock until it is closed; None where another process has it. Raises OSError."""
    file = storage.runner_lock.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except BaseException:
        file.close()
        raise
    return file


async def sweep(storage: Storage, now: float) -> None:
    for file_id in await storage.query(lambda database: file_table.expired(database, now)):
        await remove_file(storage, file_id)
    known = await storage.query(file_table.known_names)
    await storage.on_disk(lambda: storage.files.remove_left_over(known))


async def remove_file(storage: Storage, file_id: str) -> None:
    """From the books first: what is then left of it if this process dies is swept away."""
    await storage.query(lambda database: file_table.remove(database, file_id))
    await storage.on_disk(lambda: storage.files.remove(file_id))
