"""The queue where API keys share an engine: equal parts of its time, whatever number and size of requests each sends.

Start-time fair queueing (Goyal, Vin and Cheng, "Start-time Fair Queuing", SIGCOMM 1996), with a key as a flow of weight
one and predicted milliseconds as the length of a packet. Each key has a virtual time: what it was given so far. The
key that was given least has the next turn, and within a key the order of `request_queue.py` holds: priorities and
ageing count among its own requests only, or one key could take everything by asking for it. A key that comes, or
comes back, starts where those who work now are: being idle earns no credit. So keys that all have work wait
never differ by more than a batch each, and a key that is alone has the whole engine.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from embedway.engine.request_queue import Queueable, RequestQueue


class Owned(Queueable, Protocol):
    """What this queue needs to know of a request."""

    @property
    def key_number(self) -> int:
        """Whose it is: the number of its API key"""
        ...


RequestT = TypeVar("RequestT", bound=Owned)


@dataclass(slots=True, eq=False)
class _Share(Generic[RequestT]):
    """Of one key."""

    queue: RequestQueue[RequestT] = field(default_factory=RequestQueue)
    """Its clock goes by what this key is given"""
    virtual_ms: float = 0.0
    is_in_heap: bool = False


class FairShareQueue(Generic[RequestT]):
    """Requests that wait, as `RequestQueue` has them, of keys that take turns. Not thread-safe."""

    def __init__(self) -> None:
        self._shares: dict[int, _Share[RequestT]] = {}
        """Of every key that ever had a request here: as many as the server has keys"""
        self._requests: dict[Hashable, RequestT] = {}
        """All that wait, of every key"""
        self._heap: list[tuple[float, int]] = []
        """Virtual times and keys, once for each key with requests; a time may be out of date, and then too early"""
        self._turn: _Share[RequestT] | None = None
        """Whose request was last given by `begin_batch` or `first`"""
        self._virtual_ms = 0.0
        """Of whoever was served last, before that: where newcomers start"""

    def __len__(self) -> int:
        return len(self._requests)

    def get(self, key: Hashable) -> RequestT | None:
        return self._requests.get(key)

    def requests(self) -> list[RequestT]:
        """Key by key, each one's in the order of their arrival."""
        return [request for share in self._shares.values() for request in share.queue.requests()]

    def add(self, request: RequestT, work_ms: float, *, small_ms: float) -> None:
        """As `RequestQueue.add`."""
        share = self._shares.setdefault(request.key_number, _Share())
        if not len(share.queue):
            share.virtual_ms = max(share.virtual_ms, self._virtual_ms)
        share.queue.add(request, work_ms, small_ms=small_ms)
        self._requests[request.key] = request
        if not share.is_in_heap:
            share.is_in_heap = True
            heapq.heappush(self._heap, (share.virtual_ms, request.key_number))

    def remove(self, request: RequestT) -> None:
        self._shares[request.key_number].queue.remove(request)
        del self._requests[request.key]

    def begin_batch(self) -> RequestT | None:
        """The request that goes into a new batch first; None where nothing waits."""
        self._turn = self._next()
        return None if self._turn is None else self._turn.queue.begin_batch()

    def first(self, *, large: bool = False) -> RequestT | None:
        """The request whose turn it is; None where nothing waits. `large`: of those that are not small; a key that has
        none passes."""
        if large:
            shares = [share for share in self._shares.values() if share.queue.first(large=True) is not None]
            self._turn = min(shares, key=lambda share: share.virtual_ms, default=self._turn)
        else:
            self._turn = self._next()
        return None if self._turn is None else self._turn.queue.first(large=large)

    def served(self, milliseconds: float) -> None:
        """So many predicted milliseconds were given to the request that `begin_batch` or `first` gave last."""
        assert self._turn is not None, "there was a request"
        self._virtual_ms = max(self._virtual_ms, self._turn.virtual_ms)
        self._turn.virtual_ms += milliseconds
        self._turn.queue.served(milliseconds)

    def _next(self) -> _Share[RequestT] | None:
        """Of those that wait, the one that was given least."""
        while self._heap:
            virtual_ms, number = self._heap[0]
            share = self._shares[number]
            if not len(share.queue):
                share.is_in_heap = False
                heapq.heappop(self._heap)
            elif virtual_ms < share.virtual_ms:
                heapq.heapreplace(self._heap, (share.virtual_ms, number))
            else:
                return share
        return None
