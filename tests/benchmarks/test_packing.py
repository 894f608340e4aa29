from __future__ import annotations

import numpy as np
import pytest
from benchmarks.packing import batches_of, blocks


def test_batches_hold_all_sequences_in_order_and_no_more_tokens_than_wanted() -> None:
    sequences = [[i] * length for i, length in enumerate((3, 4, 9, 1, 1, 5))]
    batches = batches_of(sequences, 8)
    assert [batch.num_tokens for batch in batches] == [7, 9, 7]
    unpacked = [
        batch.token_ids[start:end].tolist()
        for batch in batches
        for start, end in zip(batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=True)
    ]
    assert unpacked == sequences


@pytest.mark.parametrize("size", [128, 256, 1024])
def test_blocks_fill_batches_of_any_multiple(size: int) -> None:
    ids = list(range(2500))
    batches = batches_of(blocks(ids, 128), size)
    assert {batch.num_tokens for batch in batches[:-1]} == {size}
    assert np.concatenate([batch.token_ids for batch in batches]).tolist() == ids[: 2500 // 128 * 128]


def test_blocks_are_of_uneven_sequences() -> None:
    lengths = {len(sequence) for sequence in blocks(list(range(12_800)), 128)}
    assert len(lengths) > 20
    assert min(lengths) >= 16
    assert max(lengths) <= 128
