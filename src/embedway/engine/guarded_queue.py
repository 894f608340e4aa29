"""The engine's queue: the scheduler behind a lock."""

from __future__ import annotations

import heapq
import math
import threading
import time
from collections.abc import Hashable, Iterable

import numpy as np

from embedway.engine.engine_request import EngineRequest
from embedway.engine.scheduler import BatchSlice, Scheduler

SPARE_EXPIRIES = 1000
NEVER = np.iinfo(np.int64).max


class GuardedQueue:
    """The I/O thread adds and cancels, the run loop takes what has not expired."""

    def __init__(self, scheduler: Scheduler[EngineRequest]) -> None:
        self._scheduler = scheduler
        self._changed = threading.Condition()
        self._is_closed = False
        self._expiries: list[tuple[float, Hashable]] = []
        """A heap: moments of the monotonic clock, and the keys of the requests that expire then"""
        self._num_expired = 0
        self._small_from = 0.0
        """Moment of the monotonic clock until which small requests are held while others wait"""
        self.preempt_at = np.full(1, NEVER, np.int64)
        """For `Preemption.at`: when the batch that runs is to make way for what `take_small` gives"""

    def change(self, added: Iterable[EngineRequest], cancelled: Iterable[tuple[int, int]]) -> None:
        """Add requests, then cancel some of those that are in the queue."""
        with self._changed:
            for request in added:
                self._scheduler.add(request)
                if request.expires_at < math.inf:
                    self._add_expiry(request)
            for key in cancelled:
                self._scheduler.cancel(key)
            self._set_alarm()
            self._changed.notify()

    def forget(self, client: int) -> None:
        """Drop all that this client has in the queue."""
        with self._changed:
            for request in self._scheduler.waiting():
                if request.client == client:
                    self._scheduler.cancel(request.key)

    def depth(self) -> tuple[int, int]:
        """Queued requests, queued tokens."""
        with self._changed:
            return self._scheduler.queued_requests, self._scheduler.queued_tokens

    @property
    def num_expired(self) -> int:
        """Requests dropped so far, for their deadlines had come before all of them was in a batch."""
        return self._num_expired

    def take(self) -> list[BatchSlice[EngineRequest]]:
        """Wait for work and take the next batch; empty once the queue is closed."""
        with self._changed:
            while not self._is_closed:
                now = time.monotonic()
                self._drop_expired(now)
                if slices := self._scheduler.next_batch(hold_small=now < self._small_from):
                    self._taken(slices, now)
                    return slices
                self._changed.wait()
            return []

    def take_full(self) -> list[BatchSlice[EngineRequest]]:
        """Take the next batch if what waits now fills one; empty otherwise, and once the queue is closed."""
        with self._changed:
            self._drop_expired(time.monotonic())
            is_ready = self._scheduler.fills_a_batch and not self._is_closed
            return self._scheduler.next_batch() if is_ready else []

    def take_small(self) -> list[BatchSlice[EngineRequest]]:
        """Take what is to run in the midst of the batch that runs; empty where that is nothing."""
        with self._changed:
            now = time.monotonic()
            self._drop_expired(now)
            if slices := self._scheduler.small_batch():
                self._taken(slices, now)
            else:
                self.preempt_at[0] = NEVER  # until more comes
            return slices

    def _taken(self, slices: list[BatchSlice[EngineRequest]], now: float) -> None:
        if slices[0].request.is_small:
            self._small_from = now + self._scheduler.rest_ms / 1000
        self._set_alarm()

    def _set_alarm(self) -> None:
        self.preempt_at[0] = int(self._small_from * 1e9) if self._scheduler.has_urgent else NEVER

    def _add_expiry(self, request: EngineRequest) -> None:
        if len(self._expiries) > 2 * self._scheduler.queued_requests + SPARE_EXPIRIES:
            # most of them are those of requests that have run
            waiting = [request for request in self._scheduler.waiting() if request.expires_at < math.inf]
            self._expiries = [(request.expires_at, request.key) for request in waiting]
            heapq.heapify(self._expiries)
        else:
            heapq.heappush(self._expiries, (request.expires_at, request.key))

    def _drop_expired(self, now: float) -> None:
        while self._expiries and self._expiries[0][0] <= now:
            _, key = heapq.heappop(self._expiries)
            self._num_expired += self._scheduler.cancel(key)

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify()
