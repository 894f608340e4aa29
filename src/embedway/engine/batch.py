"""Slices of queued requests → one packed batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embedway.engine.scheduler import BatchSlice, QueuedRequest, sum_of_squares
from embedway.models.interface import PackedBatch


def pack(slices: Sequence[BatchSlice[QueuedRequest]]) -> PackedBatch:
    """Lay the slices' sequences end to end, in order. A request's slice is contiguous already: one copy each."""
    lengths = np.concatenate([s.request.lengths[s.start : s.stop] for s in slices])
    cu_seqlens = np.zeros(len(lengths) + 1, dtype=np.int32)
    np.cumsum(lengths, out=cu_seqlens[1:])
    pool_starts = np.array([s.request.pool_start for s in slices], dtype=np.int32)
    return PackedBatch(
        token_ids=np.concatenate([s.token_ids for s in slices]),
        cu_seqlens=cu_seqlens,
        pool_starts=pool_starts.repeat([s.stop - s.start for s in slices]),
    )


def num_squares(batch: PackedBatch) -> float:
    """The sum of the squares of its sequences' lengths."""
    return sum_of_squares(batch.cu_seqlens[1:] - batch.cu_seqlens[:-1])


def split(batch: PackedBatch, at: int) -> tuple[PackedBatch, PackedBatch]:
    """The first `at` sequences, and the others."""
    cut = batch.cu_seqlens[at]
    return (
        PackedBatch(batch.token_ids[:cut], batch.cu_seqlens[: at + 1], batch.pool_starts[:at]),
        PackedBatch(batch.token_ids[cut:], batch.cu_seqlens[at:] - cut, batch.pool_starts[at:]),
    )
