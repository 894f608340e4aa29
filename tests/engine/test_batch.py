from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from embedway.engine.batch import pack, split
from embedway.engine.scheduler import BatchSlice, QueuedRequest

token_lists = st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=9), min_size=1, max_size=8)


def queued(sequences: list[list[int]], pool_start: int = 0) -> QueuedRequest:
    cu_seqlens = np.cumsum([0, *map(len, sequences)]).astype(np.int32)
    return QueuedRequest(0, np.concatenate(sequences).astype(np.int32), cu_seqlens, pool_start)


@given(st.lists(st.tuples(token_lists, st.integers(0, 3), st.data()), min_size=1, max_size=4))
def test_packing_keeps_every_sequence_as_it_was(requests: list[tuple[list[list[int]], int, st.DataObject]]) -> None:
    slices, expected = [], []
    for sequences, pool_start, data in requests:
        start = data.draw(st.integers(0, len(sequences) - 1))
        stop = data.draw(st.integers(start + 1, len(sequences)))
        slices.append(BatchSlice(queued(sequences, pool_start), start, stop))
        expected += [(ids, pool_start) for ids in sequences[start:stop]]
    batch = pack(slices)
    unpacked = [ids.tolist() for ids in np.split(batch.token_ids, batch.cu_seqlens[1:-1])]
    assert list(zip(unpacked, batch.pool_starts.tolist(), strict=True)) == expected
    assert (batch.token_ids.dtype, batch.cu_seqlens.dtype) == (np.int32, np.int32)
    assert batch.num_tokens == batch.cu_seqlens[-1]


@given(token_lists.filter(lambda sequences: len(sequences) > 1), st.data())
def test_splitting_a_batch_and_laying_the_halves_side_by_side_gives_the_batch(
    sequences: list[list[int]], data: st.DataObject
) -> None:
    batch = pack([BatchSlice(queued(sequences), 0, len(sequences))])
    left, right = split(batch, data.draw(st.integers(1, len(sequences) - 1)))
    halves = [np.split(half.token_ids, half.cu_seqlens[1:-1]) for half in (left, right)]
    assert [ids.tolist() for ids in [*halves[0], *halves[1]]] == sequences
