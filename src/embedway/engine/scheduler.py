"""Which sequences run next: queued requests → the next batch. Pure state, no clock, no model, no sockets.

Every batch is the first sequences of the queue in order, up to a number of tokens; a request may be spread over several
batches, and a batch may serve several requests. The order is `order_key`, a pure function of one request.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt


@dataclass(slots=True, eq=False)
class QueuedRequest:
    """A request's sequences as the queue holds them: packed, with how many of them were given to batches so far."""

    key: Hashable
    """Whose it is: unique among the requests in the queue."""
    token_ids: npt.NDArray[np.int32]
    """int32 [total]"""
    cu_seqlens: npt.NDArray[np.int32]
    """int32 [n + 1]"""
    pool_start: int = 0
    priority: int = 0
    num_scheduled: int = 0
    """Sequences already given to a batch; only the scheduler writes it."""

    @property
    def num_sequences(self) -> int:
        return len(self.cu_seqlens) - 1

    @property
    def num_waiting_tokens(self) -> int:
        return int(self.cu_seqlens[-1] - self.cu_seqlens[self.num_scheduled])


RequestT = TypeVar("RequestT", bound=QueuedRequest)
SliceT_co = TypeVar("SliceT_co", bound=QueuedRequest, covariant=True)


@dataclass(frozen=True, slots=True)
class BatchSlice(Generic[SliceT_co]):
    """Sequences `start … stop - 1` of one request, as part of a batch."""

    request: SliceT_co
    start: int
    stop: int


def order_key(request: QueuedRequest, arrival: int) -> tuple[int, ...]:
    """What the queue is sorted by, smallest first: arrival. Priority and fair share are to become parts of this key."""
    del request
    return (arrival,)


class Scheduler(Generic[RequestT]):
    """The queue of one engine. Not thread-safe: the engine loop guards it."""

    def __init__(self, *, max_batch_tokens: int) -> None:
        self._max_batch_tokens = max_batch_tokens
        self._heap: list[tuple[tuple[int, ...], int, RequestT]] = []
        self._waiting: dict[Hashable, RequestT] = {}
        self._num_arrived = 0
        self._queued_tokens = 0

    @property
    def queued_requests(self) -> int:
        """Requests with sequences that no batch has taken yet."""
        return len(self._waiting)

    @property
    def queued_tokens(self) -> int:
        return self._queued_tokens

    def add(self, request: RequestT) -> None:
        """Queue a request of at least one sequence. Its key must not be in the queue."""
        assert request.key not in self._waiting, "a key is queued once"
        self._waiting[request.key] = request
        self._queued_tokens += request.num_waiting_tokens
        heapq.heappush(self._heap, (order_key(request, self._num_arrived), self._num_arrived, request))
        self._num_arrived += 1

    def cancel(self, key: Hashable) -> bool:
        """Take what is left of a request out of the queue; False where nothing of it was waiting."""
        request = self._waiting.pop(key, None)
        if request is None:
            return False
        self._queued_tokens -= request.num_waiting_tokens
        return True

    def next_batch(self) -> list[BatchSlice[RequestT]]:
        """Take the next sequences: at most the token budget, but at least one sequence; empty where nothing waits."""
        slices: list[BatchSlice[RequestT]] = []
        budget = self._max_batch_tokens
        while self._heap and budget > 0:
            request = self._heap[0][2]
            if self._waiting.get(request.key) is not request:
                heapq.heappop(self._heap)  # cancelled
                continue
            stop = _last_that_fits(request, budget)
            if stop == request.num_scheduled:
                if slices:
                    break
                stop += 1  # a sequence longer than the budget runs by itself
            slices.append(BatchSlice(request, request.num_scheduled, stop))
            budget -= self._take(request, stop)
        return slices

    def _take(self, request: RequestT, stop: int) -> int:
        """Count the sequences up to `stop` as scheduled; return their tokens."""
        num_tokens = int(request.cu_seqlens[stop] - request.cu_seqlens[request.num_scheduled])
        request.num_scheduled = stop
        self._queued_tokens -= num_tokens
        if stop == request.num_sequences:
            heapq.heappop(self._heap)
            del self._waiting[request.key]
        return num_tokens


def _last_that_fits(request: QueuedRequest, budget: int) -> int:
    """The largest `stop` such that the waiting sequences before it have at most `budget` tokens."""
    limit = int(request.cu_seqlens[request.num_scheduled]) + budget
    return int(np.searchsorted(request.cu_seqlens, limit, side="right")) - 1
