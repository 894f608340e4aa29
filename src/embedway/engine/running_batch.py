"""Which requests an engine computes at this moment, where its clients can read it once it is dead: a small mapped file.

One of them may be what ended it; the others in the queue are not. Writing costs a few microseconds a batch, and no word
on the wire.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import mmap
import time
from collections.abc import Collection
from pathlib import Path

import numpy as np

from embedway.mapped_file import new_mapped_file

logger = logging.getLogger("embedway.engine")

_WORD = np.dtype("<i8")
READ_WITHIN_SECONDS = 600.0


class RunningBatch:
    """Belongs to the run loop."""

    def __init__(self, path: Path, capacity: int) -> None:
        """`path` is `path_of`; `capacity` is the most requests of a batch."""
        self._path = path
        self._capacity = capacity
        self._words = np.zeros(0, _WORD)

    def open(self) -> None:
        """Before anything runs. Where the disk is full nobody will know what ran, and the engine works all the same."""
        self._forget_the_dead()
        size = (1 + self._capacity) * _WORD.itemsize
        try:
            memory: mmap.mmap | bytearray = new_mapped_file(self._path, size)
        except OSError as error:
            logger.warning("what this engine computes cannot be written to a file: %s", error.strerror or error)
            memory = bytearray(size)
        self._words = np.frombuffer(memory, dtype=_WORD)

    def _forget_the_dead(self) -> None:
        """Remove the files of engines that were lost at this address, once their clients have read them."""
        for path in self._path.parent.glob(f"{glob.escape(self._path.stem)}.*"):
            with contextlib.suppress(OSError):
                if path != self._path and time.time() - path.stat().st_mtime > READ_WITHIN_SECONDS:
                    path.unlink()

    def begin(self, request_ids: Collection[int]) -> None:
        """The batch that runs now has sequences of these requests."""
        count = min(len(request_ids), self._capacity)
        self._words[1 : 1 + count] = np.fromiter(request_ids, dtype=_WORD, count=count)
        self._words[0] = count  # last: who reads it finds them all

    def end(self) -> None:
        self._words[0] = 0

    def close(self) -> None:
        """This engine ends well: there is nothing to be read."""
        self._path.unlink(missing_ok=True)


def path_of(address: str, instance: str) -> Path:
    """Of the engine process `instance` at this address: its successor has a file of its own."""
    return Path(f"{address}.{instance}")


def read_running(path: Path) -> frozenset[int]:
    """The requests that an engine was computing when it was lost; none where it says nothing."""
    with contextlib.suppress(OSError, ValueError):
        words = np.fromfile(path, dtype=_WORD)
        return frozenset(words[1 : 1 + words[0]].tolist()) if len(words) else frozenset()
    return frozenset()
