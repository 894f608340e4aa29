"""LoRA adapters in the native encoder, against the same in float64 with the changes multiplied into the weights."""

from __future__ import annotations

import dataclasses
import resource
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedway.kernels.native import Activation, GemmType, NativeEncoder, gemm_types, instruction_sets
from embedway.kernels.native_adapter import LayerAdapter, LowRank, NativeAdapter
from kernels.reference_encoder import (
    ACTIVATIONS,
    PROJECTIONS,
    hidden_states,
    random_adapter,
    random_encoder,
    with_adapter,
)
from kernels.test_native import OFFERS, TOLERANCES, Ids, packed

pytestmark = pytest.mark.skipif(not instruction_sets(), reason="the native library was not compiled here")

IN_COMPANY: dict[GemmType, float] = {"float32": 1e-5, "bfloat16": 4e-2, "float16": 1e-5}
"""Between a sequence alone and the same one in a batch, whose blocks may be others."""


def indices(*values: int) -> Ids:
    return np.array(values, np.int32)


@pytest.mark.parametrize(("instruction_set", "kind"), OFFERS)
@given(
    heads=st.integers(1, 5),
    head_size=st.sampled_from([8, 26, 32, 40, 64]),
    intermediate=st.integers(1, 200),
    activation=st.sampled_from(list(ACTIVATIONS)),
    reach=st.none() | st.integers(1, 20),
    ranks=st.lists(st.none() | st.integers(1, 200), min_size=1, max_size=3),
    projections=st.lists(st.sampled_from(PROJECTIONS), min_size=1, unique=True),
    sequences=st.lists(st.tuples(st.integers(1, 70), st.integers(-1, 2)), min_size=1, max_size=6),
    threads=st.integers(1, 3),
)
@settings(max_examples=15, deadline=None)
def test_states_equal_those_of_the_changed_weights(
    instruction_set: str,
    kind: GemmType,
    heads: int,
    head_size: int,
    intermediate: int,
    activation: Activation,
    reach: int | None,
    ranks: list[int | None],
    projections: list[str],
    sequences: list[tuple[int, int]],
    threads: int,
) -> None:
    """For any shape, ranks, projections and mix with the base model."""
    shape, weights = random_encoder(
        heads * head_size + intermediate,
        heads=heads,
        head_size=head_size,
        intermediate=intermediate,
        activation=activation,
        reach=reach,
    )
    changes = [random_adapter(i, shape, 2, rank=rank, projections=projections) for i, rank in enumerate(ranks)]
    encoder = NativeEncoder(shape, weights, gemm_type=kind, threads=threads, instruction_set=instruction_set)
    token_ids, cu_seqlens = packed([length for length, _ in sequences])
    chosen = indices(*(min(index, len(ranks) - 1) for _, index in sequences))
    got = encoder.hidden_states(token_ids, cu_seqlens, [encoder.make_adapter(c) for c in changes], chosen)
    models = [*(with_adapter(weights, change) for change in changes), weights]  # -1: the last
    for (start, stop), index in zip(pairwise(cu_seqlens), chosen, strict=True):
        wanted = hidden_states(shape, models[index], token_ids[start:stop])
        assert np.abs(got[start:stop] - wanted).max() <= TOLERANCES[kind] * max(1, np.abs(wanted).max())


@pytest.mark.parametrize(("instruction_set", "kind"), OFFERS)
def test_a_long_sequence_passes_in_slices(instruction_set: str, kind: GemmType) -> None:
    shape, weights = random_encoder(1, heads=2, layers=1, positions=1500)
    encoder = NativeEncoder(shape, weights, gemm_type=kind, threads=2, instruction_set=instruction_set)
    changes = [random_adapter(i, shape, 1, rank=None) for i in range(2)]
    adapters = [encoder.make_adapter(change) for change in changes]
    token_ids, cu_seqlens = packed([200, 1300, 3, 400])
    got = encoder.hidden_states(token_ids, cu_seqlens, adapters, indices(1, 0, -1, 1))
    models = [with_adapter(weights, changes[i]) for i in (1, 0)] + [weights, with_adapter(weights, changes[1])]
    for model, (start, stop) in zip(models, pairwise(cu_seqlens), strict=True):
        wanted = hidden_states(shape, model, token_ids[start:stop])
        assert np.abs(got[start:stop] - wanted).max() <= TOLERANCES[kind] * max(1, np.abs(wanted).max())


@given(
    sequences=st.lists(st.tuples(st.integers(1, 40), st.integers(-1, 7)), min_size=1, max_size=120),
    threads=st.integers(1, 3),
    kind=st.sampled_from(gemm_types() or ("float32",)),
)
@settings(max_examples=30, deadline=None)
def test_a_sequence_alone_equals_it_in_any_company(
    sequences: list[tuple[int, int]], threads: int, kind: GemmType
) -> None:
    """From a few sequences, which the threads share, to enough for each thread to take chunks of its own."""
    shape, weights = random_encoder(2)
    encoder = NativeEncoder(shape, weights, gemm_type=kind, threads=threads)
    adapters = [encoder.make_adapter(random_adapter(i, shape, 2, rank=None)) for i in range(8)]
    token_ids, cu_seqlens = packed([length for length, _ in sequences])
    chosen = indices(*(index for _, index in sequences))
    together = encoder.hidden_states(token_ids, cu_seqlens, adapters, chosen)
    for (start, stop), index in zip(pairwise(cu_seqlens), chosen, strict=True):
        ids, ends = token_ids[start:stop], indices(0, stop - start)
        own = ([adapters[index]], indices(0)) if index >= 0 else ((), None)
        assert np.abs(together[start:stop] - encoder.hidden_states(ids, ends, *own)).max() <= IN_COMPANY[kind]


@pytest.mark.parametrize("kind", gemm_types())
@pytest.mark.parametrize("lengths", [[5, 9, 3], [30, 31] * 24], ids=["shared", "own chunks"])
def test_vectors_come_in_the_order_of_the_batch(kind: GemmType, lengths: list[int]) -> None:
    shape, weights = random_encoder(3)
    encoder = NativeEncoder(shape, weights, gemm_type=kind, threads=2)
    adapters = [encoder.make_adapter(random_adapter(i, shape, 2)) for i in range(3)]
    token_ids, cu_seqlens = packed(lengths)
    chosen = np.arange(len(lengths), dtype=np.int32)[::-1] % 4 - 1
    starts = np.zeros(len(lengths), np.int32)
    vectors = encoder.embed(token_ids, cu_seqlens, starts, "mean", adapters, chosen)
    states = encoder.hidden_states(token_ids, cu_seqlens, adapters, chosen)
    wanted = [part.mean(axis=0) for part in np.split(states, cu_seqlens[1:-1])]
    np.testing.assert_allclose(vectors, np.stack(wanted), atol=1e-5)


@pytest.mark.parametrize("kind", gemm_types())
def test_an_adapter_without_changes_is_the_base_model(kind: GemmType) -> None:
    shape, weights = random_encoder(4)
    encoder = NativeEncoder(shape, weights, gemm_type=kind, threads=2)
    token_ids, cu_seqlens = packed([20, 7])
    nothing = encoder.make_adapter([LayerAdapter(), LayerAdapter()])
    got = encoder.hidden_states(token_ids, cu_seqlens, [nothing], indices(0, 0))
    np.testing.assert_array_equal(got, encoder.hidden_states(token_ids, cu_seqlens))


@pytest.mark.parametrize(("instruction_set", "kind"), OFFERS)
def test_an_adapter_that_is_not_finite_spoils_its_own_sequences_only(instruction_set: str, kind: GemmType) -> None:
    shape, weights = random_encoder(5)
    encoder = NativeEncoder(shape, weights, gemm_type=kind, threads=1, instruction_set=instruction_set)
    changes = random_adapter(0, shape, 2)
    broken = LowRank(np.full((8, shape.hidden_size), np.nan, np.float32), np.ones((shape.hidden_size, 8), np.float32))
    adapters = [
        encoder.make_adapter(changes),
        encoder.make_adapter([LayerAdapter(query=broken, attention=broken)] * 2),
    ]
    token_ids, cu_seqlens = packed([5, 9, 5, 3])
    got = encoder.hidden_states(token_ids, cu_seqlens, adapters, indices(1, 0, -1, 1))
    fine = encoder.hidden_states(token_ids, cu_seqlens, adapters[:1], indices(-1, 0, -1, -1))
    assert not np.isfinite(got[:5]).any()
    np.testing.assert_allclose(got[5:19], fine[5:19], atol=IN_COMPANY[kind])


def test_an_adapter_serves_every_encoder_that_it_fits() -> None:
    shape, weights = random_encoder(6)
    first = NativeEncoder(shape, weights, gemm_type="float32", threads=1)
    adapter = first.make_adapter(random_adapter(0, shape, 2))
    batch = (*packed([9]), [adapter], indices(0))
    wanted = first.hidden_states(*batch)
    del first
    again = NativeEncoder(shape, weights, gemm_type="float32", threads=2)
    np.testing.assert_allclose(again.hidden_states(*batch), wanted, atol=1e-6)


def test_adapters_are_made_beside_a_running_batch() -> None:
    shape, weights = random_encoder(7)
    encoder = NativeEncoder(shape, weights, gemm_type="float32", threads=2)
    changes = [random_adapter(i, shape, 2, rank=None) for i in range(20)]
    token_ids, cu_seqlens = packed([30, 31] * 24)
    wanted = encoder.hidden_states(token_ids, cu_seqlens)
    made: list[NativeAdapter] = []
    loader = threading.Thread(target=lambda: made.extend(encoder.make_adapter(change) for change in changes))
    loader.start()
    while loader.is_alive():
        np.testing.assert_array_equal(encoder.hidden_states(token_ids, cu_seqlens), wanted)
    again = encoder.make_adapter(changes[-1])
    chosen = np.zeros(48, np.int32)
    np.testing.assert_array_equal(
        encoder.hidden_states(token_ids, cu_seqlens, [made[-1]], chosen),
        encoder.hidden_states(token_ids, cu_seqlens, [again], chosen),
    )


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system does not tell a process's memory")
def test_an_adapter_is_freed_with_its_last_reference() -> None:
    shape, weights = random_encoder(8, heads=16, intermediate=2048)
    encoder = NativeEncoder(shape, weights, gemm_type="float32", threads=1)
    changes = random_adapter(0, shape, 2, rank=256)
    size = sum(a.nbytes for layer in changes for c in dataclasses.astuple(layer) if c for a in c)
    for _ in range(5):  # what the allocator keeps for the next one is no leak
        encoder.make_adapter(changes)
    before = resident_bytes()
    for _ in range(40):
        encoder.make_adapter(changes)
    assert resident_bytes() - before < 20 * size


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def test_changes_of_a_wrong_shape_are_refused() -> None:
    shape, weights = random_encoder(9)
    encoder = NativeEncoder(shape, weights, gemm_type="float32", threads=1)
    good = random_adapter(0, shape, 2)
    with pytest.raises(ValueError, match="has 1 layers, but the encoder 2"):
        encoder.make_adapter(good[:1])

    def refused(*, down: tuple[int, ...], up: tuple[int, ...]) -> None:
        wrong = LowRank(np.zeros(down, np.float32), np.zeros(up, np.float32))
        with pytest.raises(ValueError, match="the change of up in layer 1"):
            encoder.make_adapter([good[0], LayerAdapter(up=wrong)])

    refused(down=(4, 96), up=(128, 4))  # those of the layer the other way round
    refused(down=(4, 128), up=(96, 3))
    refused(down=(0, 128), up=(96, 0))
    refused(down=(128,), up=(96,))


def test_adapters_that_do_not_fit_the_batch_are_refused() -> None:
    shape, weights = random_encoder(10)
    encoder = NativeEncoder(shape, weights, gemm_type="float32", threads=2)
    adapter = encoder.make_adapter(random_adapter(0, shape, 2))
    batch = packed([3, 4])
    for wrong in (indices(0, 1), indices(-2, 0)):
        with pytest.raises(ValueError, match="asks for the adapter"):
            encoder.hidden_states(*batch, [adapter], wrong)
    for adapters, wrong in (([adapter], indices(0)), ([adapter], None), ([], indices(-1, -1))):
        with pytest.raises(ValueError, match="one a sequence"):
            encoder.hidden_states(*batch, adapters, wrong)


@pytest.mark.parametrize(
    ("layers", "heads", "intermediate"), [(3, 4, 96), (2, 3, 96), (2, 4, 97)], ids=["layers", "hidden", "intermediate"]
)
def test_an_adapter_of_another_shape_is_refused(layers: int, heads: int, intermediate: int) -> None:
    encoder = NativeEncoder(*random_encoder(11), gemm_type="float32", threads=1)
    shape, weights = random_encoder(11, layers=layers, heads=heads, intermediate=intermediate)
    other = NativeEncoder(shape, weights, gemm_type="float32", threads=1)
    assert_refused(encoder, other.make_adapter(random_adapter(0, shape, layers)))


@pytest.mark.parametrize(("instruction_set", "kind"), OFFERS[1:])
def test_an_adapter_of_another_type_or_instruction_set_is_refused(instruction_set: str, kind: GemmType) -> None:
    shape, weights = random_encoder(11)
    encoder = NativeEncoder(shape, weights, gemm_type=OFFERS[0][1], threads=1, instruction_set=OFFERS[0][0])
    other = NativeEncoder(shape, weights, gemm_type=kind, threads=1, instruction_set=instruction_set)
    assert_refused(encoder, other.make_adapter(random_adapter(0, shape, 2)))


def assert_refused(encoder: NativeEncoder, adapter: NativeAdapter) -> None:
    with pytest.raises(ValueError, match="the adapter 0 was made for another encoder"):
        encoder.hidden_states(*packed([3]), [adapter], indices(0))
