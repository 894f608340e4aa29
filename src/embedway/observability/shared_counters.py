"""Numbers that several processes count together: each in a file of its own, which the others read at any moment.

To count is to add to eight bytes of memory, so a request can afford it; what a process has counted is seen by all at
once, and stays when the process dies.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from embedway.mapped_file import new_mapped_file

NAME_BYTES = 120
RECORD_BYTES = NAME_BYTES + 8
"""A name, padded with zeros, and a float64 in the machine's byte order"""
MAX_RECORDS = 4096
SUFFIX = ".counters"


class SharedCounters:
    """The counters of this process: `[slot] = slots(name)`, `values[slot] += 1`. Belongs to one thread."""

    def __init__(self, folder: Path | None) -> None:
        """`folder` holds the files of all processes; None: nobody else counts."""
        self._folder = folder
        self._memory = _new_file(folder) if folder else mmap.mmap(-1, MAX_RECORDS * RECORD_BYTES)
        self._num_records = 0
        self.values = memoryview(self._memory).cast("d")

    def slots(self, *names: str) -> list[int]:
        """Make counters of these names, at 0; return where in `values` they are."""
        first = self._num_records
        self._num_records += len(names)
        assert self._num_records <= MAX_RECORDS, "there is a counter for each of a few names only"
        # The last first: who reads stops at a record without a name, and so finds all of them or none.
        for record, name in reversed(list(enumerate(names, first))):
            encoded = name.encode()
            assert len(encoded) <= NAME_BYTES, f"{name} is too long"
            self._memory[record * RECORD_BYTES : record * RECORD_BYTES + len(encoded)] = encoded
        return [(record + 1) * RECORD_BYTES // 8 - 1 for record in range(first, self._num_records)]

    def totals(self) -> dict[str, float]:
        """All names that any process has counted, in no particular order, and their sums over the processes."""
        if self._folder is None:
            return dict(_records(self._memory))
        totals: dict[str, float] = {}
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            # mapped, not read: nearly all of it is empty, and each restart leaves one
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
                for name, value in _records(memory):
                    totals[name] = totals.get(name, 0.0) + value
        return totals


def clear(folder: Path, pid: int, is_meant: Callable[[str], bool]) -> None:
    """Set the counters of a process that has died, whose names are meant, to 0."""
    for path in folder.glob(f"{pid}-*{SUFFIX}"):
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
            for record, (found, _) in enumerate(_records(memory)):
                if is_meant(found):
                    end = (record + 1) * RECORD_BYTES
                    memory[end - 8 : end] = bytes(8)


def _new_file(folder: Path) -> mmap.mmap:
    """A file of this process; the time tells it from an earlier one of the same id."""
    return new_mapped_file(folder / f"{os.getpid()}-{time.time_ns()}{SUFFIX}", MAX_RECORDS * RECORD_BYTES)


def _records(memory: mmap.mmap) -> Iterator[tuple[str, float]]:
    for start in range(0, len(memory), RECORD_BYTES):
        record = memory[start : start + RECORD_BYTES]
        name = record[:NAME_BYTES].rstrip(b"\0")
        if not name:
            return
        yield name.decode(), memoryview(record[NAME_BYTES:]).cast("d")[0]
