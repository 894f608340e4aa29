"""Slices of queued requests → one packed batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedway.engine.scheduler import BatchSlice, QueuedRequest, sum_of_squares
from embedway.models.interface import PackedBatch, PreparedAdapter
from embedway.visual import Visual, moved


def pack(slices: Sequence[BatchSlice[QueuedRequest]]) -> PackedBatch:
    """Lay the slices' sequences end to end, in order. A request's slice is contiguous already: one copy each."""
    lengths = np.concatenate([s.request.lengths[s.start : s.stop] for s in slices])
    cu_seqlens = np.zeros(len(lengths) + 1, dtype=np.int32)
    np.cumsum(lengths, out=cu_seqlens[1:])
    visuals: dict[int, tuple[Visual, ...]] = {}
    first = 0
    for s in slices:
        visuals.update(moved(s.request.visuals, s.start, s.stop, first))
        first += s.stop - s.start
    pool_starts = np.array([s.request.pool_start for s in slices], dtype=np.int32)
    adapters = merge(adapter_choice(s) for s in slices) if any(s.request.adapters for s in slices) else BASE_ALONE
    return PackedBatch(
        token_ids=np.concatenate([s.token_ids for s in slices]),
        cu_seqlens=cu_seqlens,
        pool_starts=pool_starts.repeat([s.stop - s.start for s in slices]),
        adapters=adapters.adapters,
        adapter_indices=adapters.indices,
        visuals=visuals,
    )


def num_squares(batch: PackedBatch) -> float:
    """The sum of the squares of its sequences' lengths."""
    return sum_of_squares(batch.cu_seqlens[1:] - batch.cu_seqlens[:-1])


def split(batch: PackedBatch, at: int) -> tuple[PackedBatch, PackedBatch]:
    """The first `at` sequences, and the others."""
    return part(batch, 0, at), part(batch, at, batch.num_sequences)


def part(batch: PackedBatch, start: int, stop: int) -> PackedBatch:
    """Sequences `start … stop - 1`, with their adapters and visuals."""
    first, last = batch.cu_seqlens[start], batch.cu_seqlens[stop]
    adapters = BASE_ALONE
    if batch.adapter_indices is not None:
        adapters = merge([AdapterChoice(batch.adapters, batch.adapter_indices[start:stop])])
    return PackedBatch(
        token_ids=batch.token_ids[first:last],
        cu_seqlens=batch.cu_seqlens[start : stop + 1] - first,
        pool_starts=batch.pool_starts[start:stop],
        adapters=adapters.adapters,
        adapter_indices=adapters.indices,
        visuals=dict(moved(batch.visuals, start, stop, 0)),
    )


@dataclass(frozen=True, slots=True)
class AdapterChoice:
    """Which adapters sequences run with, as `PackedBatch` has it."""

    adapters: tuple[PreparedAdapter, ...] = ()
    indices: npt.NDArray[np.int32] | None = None
    """int32 [n]; None where `adapters` is empty"""


BASE_ALONE = AdapterChoice()


def adapter_choice(piece: BatchSlice[QueuedRequest]) -> AdapterChoice:
    """That of a slice; its indices are there even where it is of the base model alone."""
    request = piece.request
    if request.adapter_indices is None:
        return AdapterChoice((), np.full(piece.stop - piece.start, -1, dtype=np.int32))
    return AdapterChoice(request.adapters, request.adapter_indices[piece.start : piece.stop])


def merge(choices: Iterable[AdapterChoice]) -> AdapterChoice:
    """The choices end to end: each adapter that is used once, by identity, and none that is not."""
    places: dict[int, int] = {}
    adapters: list[PreparedAdapter] = []
    indices: list[npt.NDArray[np.int32]] = []
    for choice in choices:
        assert choice.indices is not None
        table = np.full(len(choice.adapters) + 1, -1, dtype=np.int32)  # -1, the base model, finds the last entry
        for own in set(choice.indices.tolist()) - {-1}:
            adapter = choice.adapters[own]
            if id(adapter) not in places:
                places[id(adapter)] = len(adapters)
                adapters.append(adapter)
            table[own] = places[id(adapter)]
        indices.append(table[choice.indices])
    return AdapterChoice(tuple(adapters), np.concatenate(indices)) if adapters else BASE_ALONE
