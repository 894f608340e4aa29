"""The requests that one engine has: each is settled once, by its vectors, an error, or the loss of the engine."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from embedway.engine import wire
from embedway.errors import AdapterRefused, ItemFailed, NonFiniteVector, ServerFault
from embedway.packed_sequences import PackedSequences

RESOLVED_AT_ONCE = 16
"""Requests of a batch that are answered in one turn of the event loop: one or two milliseconds"""
FAULTS: dict[str, type[ServerFault]] = {fault.code: fault for fault in (ItemFailed, NonFiniteVector)}


@dataclass(frozen=True, slots=True)
class EmbedResult:
    """A request's vectors and where its time went."""

    vectors: npt.NDArray[np.float32]
    """float32 [n, dimension], in the request's order, not normalised; read-only"""
    queue_seconds: float
    compute_seconds: float


@dataclass(frozen=True, slots=True)
class Terms:
    """On which an engine is to embed a request's sequences."""

    priority: int = 0
    """Larger first"""
    param: Callable[[int], str] = "input[{}]".format
    """Names sequence i in an error"""
    expires_at: float | None = None
    """By `time.monotonic`: what has not run by then never will, and who waits for it has to cancel"""
    key_number: int = 0
    """Whose it is, for engines that keys share"""
    fresh: bool = False
    """The model runs for it, whatever was computed before"""
    whole_tokens: int = 0
    """Of the request that it is a part of; 0 where it is whole"""


@dataclass(slots=True, eq=False)
class Pending:
    """A request that waits for its answer."""

    sequences: PackedSequences
    terms: Terms
    future: asyncio.Future[EmbedResult]
    attempts: int = 0
    """How often it was sent"""
    is_suspect: bool = False
    """It may be what ended an engine"""
    request_id: int = 0
    """Of the newest attempt: an answer to an earlier one finds nobody."""

    def message(self) -> wire.Embed:
        sequences = self.sequences
        adapters = None
        if sequences.adapter_indices is not None:
            adapters = wire.EmbedAdapters(list(sequences.adapters), sequences.adapter_indices.tobytes())
        token_ids, cu_seqlens = sequences.token_ids.tobytes(), sequences.cu_seqlens.tobytes()
        visuals = [
            wire.EmbedVisual(i, v.kind, v.pixels.shape[:3], v.pixels.reshape(-1).data, v.num_tokens, v.timestamps)
            for i, own in sequences.visuals.items()
            for v in own
        ]
        terms = self.terms
        timeout_ms = None if terms.expires_at is None else (terms.expires_at - time.monotonic()) * 1000
        return wire.Embed(
            self.request_id,
            terms.priority,
            sequences.pool_start,
            token_ids,
            cu_seqlens,
            adapters,
            visuals,
            timeout_ms,
            terms.fresh,
            terms.key_number,
            terms.whole_tokens,
        )

    def resolve(self, result: EmbedResult) -> None:
        if not self.future.done():
            self.future.set_result(result)

    def reject(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


@dataclass(slots=True, eq=False)
class InFlight:
    """By request id."""

    num_tokens: int = 0
    _pending: dict[int, Pending] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._pending)

    def take(self, pending: Pending) -> None:
        """Keep a request until it is settled."""
        self._pending[pending.request_id] = pending
        self.num_tokens += pending.sequences.num_tokens

    def settle(self, request_id: int) -> Pending | None:
        """Let go of a request; None where it is not (or no longer) here."""
        pending = self._pending.pop(request_id, None)
        if pending is not None:
            self.num_tokens -= pending.sequences.num_tokens
        return pending

    def settle_all(self) -> list[Pending]:
        settled = list(self._pending.values())
        self._pending.clear()
        self.num_tokens = 0
        return settled

    def answer(self, message: wire.Answers, frame: bytes | memoryview) -> None:
        vectors, first = np.frombuffer(frame, dtype="<f4").reshape(-1, message.dimension), 0
        embedded: deque[tuple[Pending, EmbedResult]] = deque()
        for done in message.embedded:
            if pending := self.settle(done.request_id):
                own = vectors[first : first + done.num_sequences]
                embedded.append((pending, EmbedResult(own, done.queue_seconds, done.compute_seconds)))
            first += done.num_sequences
        resolve_some(embedded)
        for failed in message.failed:
            if pending := self.settle(failed.request_id):
                fault = FAULTS.get(failed.code, ItemFailed)
                pending.reject(fault(param=pending.terms.param(failed.item)))

    def refuse(self, message: wire.AdapterRefusal) -> None:
        if pending := self.settle(message.request_id):
            pending.reject(AdapterRefused(adapter=message.adapter, problem=message.problem))


def resolve_some(embedded: deque[tuple[Pending, EmbedResult]]) -> None:
    """The first of them now, the others in the next turns of the event loop."""
    for _ in range(min(RESOLVED_AT_ONCE, len(embedded))):
        pending, result = embedded.popleft()
        pending.resolve(result)
    if embedded:
        asyncio.get_running_loop().call_soon(resolve_some, embedded)
