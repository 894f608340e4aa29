"""All that is stored, for the event loop: the database in a thread of its own, the files in others."""

from __future__ import annotations

import asyncio
import errno
import logging
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from embedway.batches.database import connect
from embedway.batches.file_folder import FileFolder
from embedway.errors import BatchStorageFault, EmbedwayError, InvalidSetting, StorageFull

logger = logging.getLogger("embedway.batches")

ResultT = TypeVar("ResultT")

DATABASE_NAME = "batches.sqlite3"
DISK_THREADS = 4
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Storage:
    """Below one folder. Nothing of it is opened before it is asked for: a fault is that request's, not the server's."""

    def __init__(self, data_dir: Path) -> None:
        self.files = FileFolder(data_dir / "files")
        self.runner_lock = data_dir / "runner.lock"
        self._path = data_dir / DATABASE_NAME
        self._database: sqlite3.Connection | None = None
        self._database_thread = ThreadPoolExecutor(1, "batches-database")
        self._disk_threads = ThreadPoolExecutor(DISK_THREADS, "batches-files")

    async def query(self, act: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        """`act` on the database. Raises its errors, StorageFull or BatchStorageFault."""
        loop = asyncio.get_running_loop()
        return await _to_its_end(loop.run_in_executor(self._database_thread, self._with_database, act))

    async def on_disk(self, act: Callable[[], ResultT]) -> ResultT:
        """`act`, which reads or writes files. Raises its errors, StorageFull or BatchStorageFault."""
        loop = asyncio.get_running_loop()
        return await _to_its_end(loop.run_in_executor(self._disk_threads, _translated, act))

    def close(self) -> None:
        self._database_thread.submit(self._disconnect)
        self._database_thread.shutdown()
        self._disk_threads.shutdown()

    def _with_database(self, act: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        def work() -> ResultT:
            if self._database is None:
                self._database = connect(self._path)
            return act(self._database)

        try:
            return _translated(work)
        except (StorageFull, BatchStorageFault):
            self._disconnect()  # an operator may put things right, and the next one finds them so
            raise

    def _disconnect(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None


async def _to_its_end(work: asyncio.Future[ResultT]) -> ResultT:
    """The result of what a thread does. Who is cancelled waits for it all the same: what it uses may then be closed."""
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        if not work.cancelled():
            work.exception()  # nobody else will ask
        raise


def _translated(act: Callable[[], ResultT]) -> ResultT:
    """The one place where the system's errors become ours; the log says what they were."""
    try:
        return act()
    except sqlite3.Error as error:
        logger.error("the database of files and batches (--data-dir): %s", error)
        raise (StorageFull(problem=DISK_FULL) if "disk is full" in str(error) else BatchStorageFault()) from error
    except EmbedwayError:
        raise
    except OSError as error:
        logger.error("the files below --data-dir: %s", error)
        raise (StorageFull(problem=DISK_FULL) if error.errno in FULL else BatchStorageFault()) from error


DISK_FULL = "the server's disk is full"


def make_data_dir(data_dir: Path) -> None:
    """Raises InvalidSetting where nothing can be written there."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = data_dir / f".probe-{time.time_ns()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InvalidSetting(setting="--data-dir", problem=f"{data_dir} cannot be written: {error.strerror}") from error
