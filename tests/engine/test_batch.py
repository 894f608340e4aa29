from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from embedway.engine.batch import pack, split
from embedway.engine.model_runner import ModelRunner
from embedway.engine.scheduler import BatchSlice, QueuedRequest, Scheduler
from embedway.models.interface import PackedBatch
from fake_model import POISON_ID, FakeAdapter, FakeModel, fake_vector

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


ADAPTERS = [FakeAdapter.of(str(i)) for i in range(4)]
short_ids = st.lists(st.sampled_from([1, 2, 3, POISON_ID]), min_size=1, max_size=3)


@st.composite
def adapted_requests(draw: st.DrawFn) -> QueuedRequest:
    """A request whose sequences run with adapters of its own choice, or with the base model, or all with the latter."""
    sequences = draw(st.lists(short_ids, min_size=1, max_size=6))
    request = queued(sequences)
    if adapters := draw(st.lists(st.sampled_from(ADAPTERS), max_size=3)):
        places = st.integers(-1, len(adapters) - 1)
        request.adapters = tuple(adapters)
        request.adapter_indices = np.array([draw(places) for _ in sequences], dtype=np.int32)
    return request


def with_adapters(batch: PackedBatch) -> Iterator[tuple[list[int], FakeAdapter | None]]:
    """Each sequence's ids and its adapter, None for the base model."""
    indices = [-1] * batch.num_sequences if batch.adapter_indices is None else batch.adapter_indices.tolist()
    sequences = np.split(batch.token_ids, batch.cu_seqlens[1:-1])
    for ids, i in zip(sequences, indices, strict=True):
        adapter = None if i == -1 else batch.adapters[i]
        assert adapter is None or isinstance(adapter, FakeAdapter)
        yield ids.tolist(), adapter


def expected_with_adapters(request: QueuedRequest) -> Iterator[tuple[list[int], FakeAdapter | None]]:
    yield from with_adapters(
        PackedBatch(
            token_ids=request.token_ids,
            cu_seqlens=request.cu_seqlens,
            pool_starts=np.zeros(request.num_sequences, np.int32),
            adapters=request.adapters,
            adapter_indices=request.adapter_indices,
        )
    )


@given(st.lists(adapted_requests(), min_size=1, max_size=5), st.integers(1, 12))
def test_no_sequence_s_adapter_is_swapped_in_batches_and_their_halves(
    requests: list[QueuedRequest], max_batch_tokens: int
) -> None:
    """Requests are spread over batches, and a batch with a poisonous sequence is halved."""
    scheduler = Scheduler[QueuedRequest](max_batch_tokens=max_batch_tokens)
    for i, request in enumerate(requests):
        request.key = i
        scheduler.add(request)
    expected = [pair for request in requests for pair in expected_with_adapters(request)]
    seen: list[tuple[list[int], FakeAdapter | None]] = []
    while slices := scheduler.next_batch():
        batch = pack(slices)
        check_adapters(batch)
        outcome = ModelRunner(FakeModel()).begin(batch).outcome()
        for i, (ids, adapter) in enumerate(with_adapters(batch)):
            if POISON_ID not in ids:
                np.testing.assert_array_equal(outcome.vectors[i], fake_vector(ids) + (adapter.shift if adapter else 0))
            assert (i in outcome.faults) == (POISON_ID in ids)
            seen.append((ids, adapter))
    assert seen == expected


def check_adapters(batch: PackedBatch) -> None:
    """Each adapter is there once, and is used; a batch of the base model alone has none, and no indices."""
    if batch.adapter_indices is None:
        assert batch.adapters == ()
        return
    assert batch.adapter_indices.dtype == np.int32
    assert set(batch.adapter_indices.tolist()) - {-1} == set(range(len(batch.adapters)))
    assert batch.adapters
    assert len(set(batch.adapters)) == len(batch.adapters)


@given(st.lists(adapted_requests(), min_size=1, max_size=3), st.data())
def test_halves_keep_their_sequences_adapters_and_no_others(requests: list[QueuedRequest], data: st.DataObject) -> None:
    batch = pack([BatchSlice(request, 0, request.num_sequences) for request in requests])
    if batch.num_sequences > 1:
        left, right = split(batch, data.draw(st.integers(1, batch.num_sequences - 1)))
        check_adapters(left)
        check_adapters(right)
        assert [*with_adapters(left), *with_adapters(right)] == list(with_adapters(batch))
