"""PackedBatches for tests, from lists of token ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embedway.models.interface import PackedBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedway.models.interface import PreparedAdapter


def packed(
    sequences: Sequence[Sequence[int]],
    pool_starts: Sequence[int] | None = None,
    adapters: Sequence[PreparedAdapter | None] = (),
) -> PackedBatch:
    """Lay the sequences end to end; by default the pooling leaves nothing out.

    `adapters` are one a sequence, None for the base model; without any the batch has none.
    """
    different = {id(adapter): adapter for adapter in adapters if adapter is not None}
    indices = [-1 if adapter is None else list(different).index(id(adapter)) for adapter in adapters]
    return PackedBatch(
        token_ids=np.concatenate([np.asarray(sequence, np.int32) for sequence in sequences]),
        cu_seqlens=np.cumsum([0, *map(len, sequences)], dtype=np.int32),
        pool_starts=np.asarray([0] * len(sequences) if pool_starts is None else pool_starts, np.int32),
        adapters=tuple(different.values()),
        adapter_indices=np.asarray(indices, np.int32) if different else None,
    )


def random_sequences(lengths: Sequence[int], vocab_size: int, seed: int = 0) -> list[list[int]]:
    """Token ids without the first five, which are special tokens in the tiny checkpoints."""
    random = np.random.default_rng(seed)
    return [random.integers(5, vocab_size, length).tolist() for length in lengths]
