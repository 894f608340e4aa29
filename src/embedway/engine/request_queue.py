"""The order in which queued requests run: a pure function of what is queued and of the work that was done meanwhile.

1. Larger priority first.
2. Among equals, fair share: a request's turn is its arrival, put back by GIVES_WAY for each millisecond of work that it
   has left. So a query goes before the rest of a long list, and the list before queries that come so much later; each
   batch that it gets brings its turn nearer (shortest remaining time first, with ageing). What is as good as nothing
   says the scheduler: small requests are put back alike, and keep their order.
3. Nothing starves: one batch of every AGED_EVERY begins with the request that has waited for longest, if that is longer
   than AGED_MS, whatever its priority and size.

Time is counted in predicted milliseconds of the batches that were given out, so there is no clock: while anything
waits, the model works.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

GIVES_WAY = 1000.0
AGED_MS = 5000.0
AGED_EVERY = 4
SPARE_ENTRIES = 1000
"""Of requests that have gone: they are cleared away once they are more than this and twice those that wait."""


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


RequestT = TypeVar("RequestT", bound=Queueable)


@dataclass(slots=True, eq=False)
class _Entry(Generic[RequestT]):
    request: RequestT | None
    """None once it waits no more: an entry may stay in the heap for long, and is not to keep texts and pixels alive"""
    priority: int
    arrival: int
    """How many came before it"""
    arrived_ms: float
    version: int = 0
    """How often its turn has changed: older places in the heap are void"""


class RequestQueue(Generic[RequestT]):
    """Requests that wait, in their order. Not thread-safe."""

    def __init__(self) -> None:
        self._entries: dict[Hashable, _Entry[RequestT]] = {}
        self._heap: list[tuple[tuple[float, ...], int, _Entry[RequestT]]] = []
        self._by_arrival: deque[_Entry[RequestT]] = deque()
        self._num_arrived = 0
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

    def add(self, request: RequestT, remaining_ms: float) -> None:
        """`remaining_ms` is the predicted time of its work. Its key must not be in the queue."""
        assert request.key not in self._entries, "a key is queued once"
        entry = _Entry(request, request.priority, self._num_arrived, self._served_ms)
        self._num_arrived += 1
        self._entries[request.key] = entry
        self._by_arrival.append(entry)
        self._place(entry, remaining_ms)
        self._clear_away()

    def remove(self, request: RequestT) -> None:
        self._entries.pop(request.key).request = None

    def has_left(self, request: RequestT, remaining_ms: float) -> None:
        """A part of it was taken: its turn changes."""
        entry = self._entries[request.key]
        entry.version += 1
        self._place(entry, remaining_ms)
        self._clear_away()

    def begin_batch(self) -> RequestT | None:
        """The request that goes into a new batch first; None where nothing waits."""
        self._batches_since_aged += 1
        oldest = self._oldest()
        if oldest is None:
            return None
        is_aged = self._served_ms - oldest.arrived_ms > AGED_MS
        if is_aged and self._batches_since_aged >= AGED_EVERY:
            self._batches_since_aged = 0
            return oldest.request
        return self.first()

    def first(self) -> RequestT | None:
        """The request whose turn it is; None where nothing waits."""
        while self._heap:
            _, version, entry = self._heap[0]
            if entry.version == version and entry.request is not None:
                return entry.request
            heapq.heappop(self._heap)
        return None

    def served(self, milliseconds: float) -> None:
        """A batch of so many predicted milliseconds is given out."""
        self._served_ms += milliseconds

    def _oldest(self) -> _Entry[RequestT] | None:
        while self._by_arrival:
            if self._by_arrival[0].request is not None:
                return self._by_arrival[0]
            self._by_arrival.popleft()
        return None

    def _place(self, entry: _Entry[RequestT], remaining_ms: float) -> None:
        turn = order_key(entry.priority, entry.arrived_ms, remaining_ms, entry.arrival)
        heapq.heappush(self._heap, (turn, entry.version, entry))

    def _clear_away(self) -> None:
        """Let go of the entries that are void, once they are many: so each costs a moment on average."""
        limit = 2 * len(self._entries) + SPARE_ENTRIES
        if len(self._heap) > limit:
            self._heap = [
                (turn, n, entry) for turn, n, entry in self._heap if entry.version == n and entry.request is not None
            ]
            heapq.heapify(self._heap)
        if len(self._by_arrival) > limit:
            self._by_arrival = deque(self._entries.values())


def order_key(priority: int, arrived_ms: float, remaining_ms: float, arrival: int) -> tuple[float, ...]:
    """Smallest first."""
    return (-priority, arrived_ms + GIVES_WAY * remaining_ms, arrival)
