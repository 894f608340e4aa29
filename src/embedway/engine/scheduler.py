"""Which sequences run next: queued requests → the next batch. Pure state, no clock, no model, no sockets.

Every batch is the first sequences of the queue in its order (`request_queue.py`, `fair_share.py`), as many as may run
in the time that a batch should take; a request may be spread over several batches, and a batch may serve several
requests. Small requests run without the rest of large ones, where a batch of their own costs little: filled up, it
would last for its sender, too, as long as a batch may.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from embedway.engine.batch_time_model import BatchTimeModel, Coefficients
from embedway.engine.fair_share import FairShareQueue
from embedway.engine.request_queue import RequestQueue

if TYPE_CHECKING:
    from embedway.models.interface import PreparedAdapter
    from embedway.visual import Visual

TARGET_BATCH_MS = {"cpu": 40.0, "cuda": 50.0}
"""By the kind of device, where the settings do not say. On a CPU the model is no faster in larger batches, but what
surrounds each is (waking, replies, the API process): 64 connections of queries got a third more than at 20."""
SMALL_REQUEST_TOKENS = 64
"""A request of at most so many tokens is small, unless its priority is below 0, as bulk's may be: a query, whose sender
waits for it."""
LEAST_MS = 1e-6
"""Of a request's work, as long as the time model has learned nothing"""
BACKLOG_PER_BATCH = 8.0
MAX_BACKLOG_TARGET = 4.0
"""Where nothing but small requests of the usual priority is about, and batches make way, one may last for an eighth of
the work that waits, up to so many times the target: by then all of them wait for far longer than for a batch. Where
more queries come than can be answered, more of them are: what surrounds a batch costs most where the cores have the
others to refuse. Not between API keys: one that sends a request at a time has one a batch."""
TARGET_BESIDE_SMALL = 0.5
"""Part of the target time while small requests are about: they wait for the batch that runs."""
MEMORY_MS = 500.0
"""Requests of a kind are about while one waits or runs, and until batches of so many milliseconds were made after it: a
client that waits for its answer comes again."""
REST_PER_MS = 8.0
REST_OF_TARGET = 0.575
"""While others wait, small requests rest after a batch of theirs for so many times what it takes, but for no longer
than this part of the target, or than one small request takes where that is more. So a few clients that send one after
the other slow the others down by about a ninth, and none of them waits long."""
LEAST_REST_PER_MS = 1 / 3
"""The rest where more small requests wait than a batch holds: whatever comes, a quarter of the time is the others'."""
MAX_FIXED_SHARE = 0.1
"""A batch may pass its target until its fixed cost is at most this part of it: a large model's fixed cost alone may
pass the target, and a batch of one sequence at a time would be a waste of nearly all of it."""


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
    key_number: int = 0
    """Of the API key it came with"""
    whole_tokens: int = 0
    """Of the request that it is a part of, which has its turn as one; 0 where it is whole"""
    adapters: tuple[PreparedAdapter, ...] = ()
    """Held for as long as the request lives: what is unloaded meanwhile serves it still"""
    adapter_indices: npt.NDArray[np.int32] | None = None
    """int32 [n]: each sequence's place in `adapters`, -1 for the base model; None where `adapters` is empty"""
    visuals: Mapping[int, tuple[Visual, ...]] = field(default_factory=dict)
    """Sequence → its images and videos"""
    lengths: npt.NDArray[np.int32] = field(init=False)
    """int32 [n], of `cu_seqlens`"""
    num_scheduled: int = field(init=False, default=0)
    """Sequences already given to a batch; only the scheduler writes it and the next two."""
    num_waiting_tokens: int = field(init=False)
    """Of the sequences that no batch has taken yet"""
    num_waiting_squares: float = field(init=False)
    """The sum of their lengths' squares"""

    def __post_init__(self) -> None:
        self.lengths = self.cu_seqlens[1:] - self.cu_seqlens[:-1]
        self.num_waiting_tokens = len(self.token_ids)
        self.num_waiting_squares = sum_of_squares(self.lengths)

    @property
    def num_sequences(self) -> int:
        return len(self.lengths)

    @property
    def is_small(self) -> bool:
        return max(len(self.token_ids), self.whole_tokens) <= SMALL_REQUEST_TOKENS and self.priority >= 0

    @property
    def is_usual(self) -> bool:
        """A query of the usual priority."""
        return self.is_small and self.priority == 0


def sum_of_squares(lengths: npt.NDArray[np.int32]) -> float:
    """In float64, which is exact here: a long sequence's square passes int32."""
    wide = lengths.astype(np.float64)
    return float(wide.dot(wide))


RequestT = TypeVar("RequestT", bound=QueuedRequest)
SliceT_co = TypeVar("SliceT_co", bound=QueuedRequest, covariant=True)


@dataclass(frozen=True, slots=True)
class BatchSlice(Generic[SliceT_co]):
    """Sequences `start … stop - 1` of one request, as part of a batch."""

    request: SliceT_co
    start: int
    stop: int

    @property
    def token_ids(self) -> npt.NDArray[np.int32]:
        request = self.request
        if self.stop - self.start == request.num_sequences:
            return request.token_ids
        return request.token_ids[request.cu_seqlens[self.start] : request.cu_seqlens[self.stop]]


@dataclass(slots=True)
class Room:
    """What a batch can still take."""

    tokens: int
    milliseconds: float
    costs: Coefficients

    def take(self, num_tokens: int, num_squares: float) -> bool:
        """Take so many tokens, if there is room for all of them."""
        milliseconds = self.costs.variable(num_tokens, num_squares)
        if num_tokens > self.tokens or milliseconds > self.milliseconds:
            return False
        self.tokens -= num_tokens
        self.milliseconds -= milliseconds
        return True

    def num_that_fit(self, lengths: npt.NDArray[np.int32]) -> int:
        """How many of these sequences, from the first one on."""
        tokens = lengths.cumsum()
        milliseconds = (
            self.costs.per_token * lengths + self.costs.per_square * lengths.astype(np.float64) ** 2
        ).cumsum()
        return min(
            int(tokens.searchsorted(self.tokens, side="right")),
            int(milliseconds.searchsorted(self.milliseconds, side="right")),
        )


class Scheduler(Generic[RequestT]):
    """The queue of one engine. Not thread-safe: the engine loop guards it.

    A batch is to last at most `target_ms` by `time_model`, less while small requests are about, or more where only
    those are and many wait (`limit_ms`); `max_batch_tokens` bounds the memory of a batch. A sequence that passes either
    runs by itself.

    Where the model `is_preemptible`, small requests do not wait for a batch of others to end: they are never in one,
    `small_batch` gives those that may run in its midst, and it is as long as if none were about.
    """

    def __init__(
        self,
        *,
        max_batch_tokens: int,
        target_ms: float = math.inf,
        time_model: BatchTimeModel | None = None,
        queue: RequestQueue[RequestT] | FairShareQueue[RequestT] | None = None,
        is_preemptible: bool = False,
    ) -> None:
        """`queue` is an empty one, by default a RequestQueue."""
        self._max_batch_tokens = max_batch_tokens
        self._target_ms = target_ms
        self.time_model = time_model or BatchTimeModel()  # one that was taught nothing: every batch takes no time
        self._queue = RequestQueue[RequestT]() if queue is None else queue
        self._grows = is_preemptible and isinstance(self._queue, RequestQueue)
        """Whether batches may last longer where much waits"""
        self._queued_tokens = 0
        self._num_small = 0
        self._ms_since_small = self._ms_since_other = math.inf
        """Predicted time of the batches made since a small request came, or one came or ran that is not as most of them
        are: larger, or of another priority"""
        self._is_preemptible = is_preemptible
        self._preemptible_from: float = math.inf
        """The priority from which on small requests may run in the midst of the batch that `next_batch` gave last"""
        self.rest_ms = 0.0
        """After a batch of small requests was begun: how long the next one is to be held, if others wait. Zero where no
        batch can make way for it."""

    @property
    def queued_requests(self) -> int:
        """Requests with sequences that no batch has taken yet."""
        return len(self._queue)

    @property
    def queued_tokens(self) -> int:
        return self._queued_tokens

    @property
    def fills_a_batch(self) -> bool:
        """Whether the next batch would be no larger if a little more came."""
        return self._queued_tokens >= self._max_batch_tokens or self._queued_ms >= self.limit_ms

    @property
    def limit_ms(self) -> float:
        """How long the next batch may take."""
        target = self._target_ms
        are_all_small = self._num_small == len(self._queue)
        if self._grows and are_all_small and self._ms_since_other >= MEMORY_MS:
            target = max(target, min(self._queued_ms / BACKLOG_PER_BATCH, target * MAX_BACKLOG_TARGET))
        is_small_about = self._num_small > 0 or self._ms_since_small < MEMORY_MS
        if is_small_about and not are_all_small and not self._is_preemptible:
            target *= TARGET_BESIDE_SMALL
        return max(target, self.time_model.fixed_ms / MAX_FIXED_SHARE)

    @property
    def _queued_ms(self) -> float:
        """At least what all that waits takes, if it is one batch."""
        return self.time_model.coefficients.predict(self._queued_tokens, 0)

    @property
    def has_urgent(self) -> bool:
        """Whether `small_batch` may have something to give."""
        return self._num_small > 0 and self._preemptible_from < math.inf

    def add(self, request: RequestT) -> None:
        """Queue a request of at least one sequence. Its key must not be in the queue."""
        costs = self.time_model.coefficients
        work_ms = costs.variable(max(request.num_waiting_tokens, request.whole_tokens), request.num_waiting_squares)
        small_ms = costs.variable(SMALL_REQUEST_TOKENS, SMALL_REQUEST_TOKENS**2)
        self._queue.add(request, max(work_ms, LEAST_MS), small_ms=max(small_ms, LEAST_MS))
        self._queued_tokens += request.num_waiting_tokens
        if request.is_small:
            self._num_small += 1
            self._ms_since_small = 0.0
        if not request.is_usual:
            self._ms_since_other = 0.0

    def cancel(self, key: Hashable) -> bool:
        """Take what is left of a request out of the queue; False where nothing of it was waiting."""
        request = self._queue.get(key)
        if request is None:
            return False
        self._queued_tokens -= request.num_waiting_tokens
        self._remove(request)
        return True

    def waiting(self) -> list[RequestT]:
        """All requests with sequences that no batch has taken yet."""
        return self._queue.requests()

    def next_batch(self, *, hold_small: bool = False) -> list[BatchSlice[RequestT]]:
        """Take the next sequences: as many as the limits allow, but at least one; empty where nothing waits.

        `hold_small`: small requests come after all others of their priority.
        """
        self._preemptible_from = math.inf
        request = self._queue.begin_batch()
        if request is None:
            return []
        if hold_small and request.is_small:
            request = self._queue.first(large=True) or request
        slices = self._fill(request)
        if self._is_preemptible and not request.is_small:
            self._preemptible_from = max(piece.request.priority for piece in slices)
        return slices

    def small_batch(self) -> list[BatchSlice[RequestT]]:
        """Take what is to run in the midst of the batch that `next_batch` gave last; empty where that is nothing."""
        request = self._queue.first()
        if request is None or not request.is_small or request.priority < self._preemptible_from:
            return []
        return self._fill(request)

    def _fill(self, request: RequestT) -> list[BatchSlice[RequestT]]:
        """A batch that begins with this request."""
        costs = self.time_model.coefficients
        room = Room(self._max_batch_tokens, self.limit_ms - costs.fixed, costs)
        slices: list[BatchSlice[RequestT]] = []
        self._queue.served(costs.fixed)
        batch_ms = costs.fixed
        small_alone = self._is_preemptible or costs.fixed <= MAX_FIXED_SHARE * self._target_ms
        only_small, only_large = request.is_small and small_alone, not request.is_small and self._is_preemptible
        following: RequestT | None = request
        while following is not None and (following.is_small or not only_small):
            if room.take(following.num_waiting_tokens, following.num_waiting_squares):
                batch_ms += self._take(slices, following, following.num_sequences)
                following = self._queue.first(large=only_large)
                continue
            stop = following.num_scheduled + room.num_that_fit(following.lengths[following.num_scheduled :])
            if not slices:
                stop = max(stop, following.num_scheduled + 1)  # a sequence that no batch has room for runs by itself
            if stop > following.num_scheduled:
                batch_ms += self._take(slices, following, stop)
            break
        if request.is_small and self._is_preemptible:
            self.rest_ms = self._rest_after(batch_ms)
        return slices

    def _rest_after(self, batch_ms: float) -> float:
        """Of small requests, from the beginning of a batch of theirs on."""
        if self._num_small:
            return (1 + LEAST_REST_PER_MS) * batch_ms
        one_ms = self.time_model.coefficients.predict(SMALL_REQUEST_TOKENS, SMALL_REQUEST_TOKENS**2)
        return batch_ms + min(REST_PER_MS * batch_ms, max(REST_OF_TARGET * self._target_ms, one_ms))

    def _take(self, slices: list[BatchSlice[RequestT]], request: RequestT, stop: int) -> float:
        """Add the sequences up to `stop` to a batch, and count them as scheduled; the milliseconds that they add."""
        piece = BatchSlice(request, request.num_scheduled, stop)
        slices.append(piece)
        request.num_scheduled = stop
        num_tokens, num_squares = request.num_waiting_tokens, request.num_waiting_squares
        if stop == request.num_sequences:
            self._remove(request)
        else:
            lengths = request.lengths[piece.start : stop]
            num_tokens, num_squares = int(lengths.sum()), sum_of_squares(lengths)
            request.num_waiting_tokens -= num_tokens
            request.num_waiting_squares -= num_squares
        self._queued_tokens -= num_tokens
        milliseconds = self.time_model.coefficients.variable(num_tokens, num_squares)
        self._ms_since_small += milliseconds
        self._ms_since_other = self._ms_since_other + milliseconds if request.is_usual else 0.0
        self._queue.served(milliseconds)
        return milliseconds

    def _remove(self, request: RequestT) -> None:
        self._queue.remove(request)
        self._num_small -= request.is_small
