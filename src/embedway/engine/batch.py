"""Slices of queued requests → one packed batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embedway.engine.scheduler import BatchSlice, QueuedRequest
from embedway.models.interface import PackedBatch


def pack(slices: Sequence[BatchSlice[QueuedRequest]]) -> PackedBatch:
    """Lay the slices' sequences end to end, in order. A request's slice is contiguous already: one copy each."""
    token_ids = [s.request.token_ids[s.request.cu_seqlens[s.start] : s.request.cu_seqlens[s.stop]] for s in slices]
    lengths = [np.diff(s.request.cu_seqlens[s.start : s.stop + 1]) for s in slices]
    pool_starts = [np.full(s.stop - s.start, s.request.pool_start, dtype=np.int32) for s in slices]
    cu_seqlens = np.zeros(sum(map(len, lengths)) + 1, dtype=np.int32)
    np.cumsum(np.concatenate(lengths), out=cu_seqlens[1:])
    return PackedBatch(np.concatenate(token_ids), cu_seqlens, np.concatenate(pool_starts))


def split(batch: PackedBatch, at: int) -> tuple[PackedBatch, PackedBatch]:
    """The first `at` sequences, and the others."""
    cut = batch.cu_seqlens[at]
    return (
        PackedBatch(batch.token_ids[:cut], batch.cu_seqlens[: at + 1], batch.pool_starts[:at]),
        PackedBatch(batch.token_ids[cut:], batch.cu_seqlens[at:] - cut, batch.pool_starts[at:]),
    )
