"""The order in which queued requests run: a pure function of what is queued and of the work that was done meanwhile.

1. Larger priority first.
2. Among equals, fair share: highest response ratio next (P. Brinch Hansen, "Short-term scheduling in multiprogramming
   systems", SOSP 1971). The request goes first that has waited for longest in proportion to its work. As it comes it is
   taken to have waited for PATIENCE times a small request's work: so a query goes before a long list that came seconds
   earlier. Requests of about one size keep their order, and nobody's wait is out of proportion, as it is where the
   shortest goes first. Small requests count alike.
3. Nothing starves: one batch of every AGED_EVERY begins with the request that has waited for longest, if that is longer
   than AGED_MS, whatever its priority and size. Longer waits do not count for a long list, unless it is among its like:
   it would have the model for itself until it is done.

Time is counted in predicted milliseconds of the batches that were given out, so there is no clock: while anything
waits, the model works.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

PATIENCE = 20.0
AGED_MS = 5000.0
AGED_EVERY = 4
SIZE_STEP = 1.25
"""Requests whose work differs by less stand in one line: their order is that of their arrival, and only the first of
each line needs to be looked at."""
SPARE_PLACES = 1000
"""Of requests that have gone: they are cleared away once they are more than this and the number of those that wait."""


class Queueable(Protocol):
    """What the queue needs to know of a request."""

    @property
    def key(self) -> Hashable:
        """Unique among the requests in the queue"""
        ...

    @property
    def priority(self) -> int:
        """Larger first"""
        ...

    @property
    def is_small(self) -> bool: ...


RequestT = TypeVar("RequestT", bound=Queueable)


@dataclass(slots=True, eq=False)
class _Entry(Generic[RequestT]):
    request: RequestT | None
    """None once it waits no more: a place may be kept for long, and is not to keep texts and pixels alive"""
    priority: int
    is_small: bool
    work_ms: float
    patience_ms: float
    arrived_ms: float


class RequestQueue(Generic[RequestT]):
    """Requests that wait, in their order. Not thread-safe."""

    def __init__(self) -> None:
        self._entries: dict[Hashable, _Entry[RequestT]] = {}
        """In the order of their arrival"""
        self._lines: dict[int, dict[int, deque[_Entry[RequestT]]]] = {}
        """By priority and size"""
        self._priorities: list[int] = []
        """A heap of those that have lines, negative"""
        self._num_placed = 0
        """Since those that have gone were cleared away"""
        self._served_ms = 0.0
        self._batches_since_aged = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable) -> RequestT | None:
        entry = self._entries.get(key)
        return None if entry is None else entry.request

    def requests(self) -> list[RequestT]:
        """In the order of their arrival."""
        return [entry.request for entry in self._entries.values() if entry.request is not None]

    def add(self, request: RequestT, work_ms: float, *, small_ms: float) -> None:
        """`work_ms` is the predicted time of all its work, `small_ms` that of what is small, both above zero. Its key
        must not be in the queue."""
        assert request.key not in self._entries, "a key is queued once"
        work_ms = max(work_ms, small_ms)
        entry = _Entry(request, request.priority, request.is_small, work_ms, PATIENCE * small_ms, self._served_ms)
        self._entries[request.key] = entry
        self._place([entry])
        if self._num_placed > 2 * len(self._entries) + SPARE_PLACES:
            self._clear_away()

    def remove(self, request: RequestT) -> None:
        self._entries.pop(request.key).request = None

    def begin_batch(self) -> RequestT | None:
        """The request that goes into a new batch first; None where nothing waits."""
        self._batches_since_aged += 1
        oldest = next(iter(self._entries.values()), None)
        if oldest is None:
            return None
        is_aged = self._served_ms - oldest.arrived_ms > AGED_MS
        if is_aged and self._batches_since_aged >= AGED_EVERY:
            self._batches_since_aged = 0
            return oldest.request
        return self.first()

    def first(self, *, large: bool = False) -> RequestT | None:
        """The request whose turn it is; None where nothing waits. `large`: of those that are not small, if none of
        higher priority waits."""
        while self._priorities:
            lines = self._lines[-self._priorities[0]]
            heads = list(heads_of(lines))
            if heads:
                heads = [entry for entry in heads if not (large and entry.is_small)]
                return max(heads, key=self._response_ratio).request if heads else None
            del self._lines[-heapq.heappop(self._priorities)]
        return None

    def served(self, milliseconds: float) -> None:
        """A batch of so many predicted milliseconds is given out."""
        self._served_ms += milliseconds

    def _response_ratio(self, entry: _Entry[RequestT]) -> tuple[float, float]:
        """And among equals, the one that came first."""
        # a long list never becomes as urgent as a small request that comes
        counted_ms = max(AGED_MS, (PATIENCE - 1) * entry.work_ms)
        waited_ms = min(self._served_ms - entry.arrived_ms, counted_ms)
        return (waited_ms + entry.patience_ms) / entry.work_ms, -entry.arrived_ms

    def _place(self, entries: Iterable[_Entry[RequestT]]) -> None:
        for entry in entries:
            if entry.priority not in self._lines:
                self._lines[entry.priority] = {}
                heapq.heappush(self._priorities, -entry.priority)
            size = math.floor(math.log(entry.work_ms, SIZE_STEP))
            self._lines[entry.priority].setdefault(size, deque()).append(entry)
            self._num_placed += 1

    def _clear_away(self) -> None:
        """Let go of the places of those that have gone, once they are many: so each costs a moment on average."""
        self._lines, self._priorities, self._num_placed = {}, [], 0
        self._place(self._entries.values())


def heads_of(lines: dict[int, deque[_Entry[RequestT]]]) -> Iterator[_Entry[RequestT]]:
    """The first of each line that waits still; lines in which nobody does are removed."""
    for size in list(lines):
        line = lines[size]
        while line and line[0].request is None:
            line.popleft()
        if line:
            yield line[0]
        else:
            del lines[size]
