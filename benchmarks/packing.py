"""Token ids → packed batches for the engine benchmark."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from embedway.models.interface import PackedBatch


def batches_of(sequences: Sequence[Sequence[int]], max_tokens: int) -> list[PackedBatch]:
    """Sequences in order, as many in a batch as fit; a longer one alone."""
    groups: list[list[Sequence[int]]] = []
    room = 0
    for sequence in sequences:
        if len(sequence) > room or not groups:
            groups.append([])
            room = max_tokens
        groups[-1].append(sequence)
        room -= len(sequence)
    return [pack(group) for group in groups]


def pack(sequences: Sequence[Sequence[int]]) -> PackedBatch:
    cu_seqlens = np.zeros(len(sequences) + 1, dtype=np.int32)
    np.cumsum([len(sequence) for sequence in sequences], out=cu_seqlens[1:])
    token_ids = np.concatenate([np.asarray(sequence, dtype=np.int32) for sequence in sequences])
    return PackedBatch(token_ids, cu_seqlens, np.zeros(len(sequences), dtype=np.int32))


def blocks(token_ids: Sequence[int], size: int, *, shortest: int = 16) -> list[Sequence[int]]:
    """Sequences of uneven lengths that fill blocks of exactly `size` tokens: batches of any multiple are full."""
    rng = random.Random(0)
    cuts = [
        block + offset
        for block in range(0, len(token_ids) - size + 1, size)
        for offset in (0, *_inner_cuts(rng, size, shortest))
    ]
    ends = [*cuts[1:], len(token_ids) // size * size]
    return [token_ids[start:end] for start, end in zip(cuts, ends, strict=True)]


def _inner_cuts(rng: random.Random, size: int, shortest: int) -> list[int]:
    cuts, at = [], 0
    while (at := at + rng.randint(shortest, size)) <= size - shortest:
        cuts.append(at)
    return cuts
