"""The native encoder against the same in float64, for every instruction set and GEMM type that this machine has."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedway.kernels.native import (
    Activation,
    EncoderShape,
    EncoderWeights,
    GemmType,
    NativeEncoder,
    PoolingMode,
    gemm_types,
    instruction_sets,
)
from kernels.reference_encoder import ACTIVATIONS, hidden_states, random_encoder

pytestmark = pytest.mark.skipif(not instruction_sets(), reason="the native library was not compiled here")

OFFERS = [(name, kind) for name in instruction_sets() for kind in gemm_types(name)]
TOLERANCES: dict[GemmType, float] = {"float32": 1e-5, "bfloat16": 6e-2, "float16": 6e-3}
"""Of states that LayerNorm keeps near 1: the rounding of the type, with room."""

Ids = npt.NDArray[np.int32]


def packed(lengths: list[int], seed: int = 0, vocabulary: int = 64) -> tuple[Ids, Ids]:
    rng = np.random.default_rng(seed)
    token_ids = rng.integers(0, vocabulary, sum(lengths)).astype(np.int32)
    return token_ids, np.cumsum([0, *lengths], dtype=np.int32)


def assert_close(
    encoder: NativeEncoder, model: tuple[EncoderShape, EncoderWeights], lengths: list[int], kind: GemmType
):
    token_ids, cu_seqlens = packed(lengths)
    got = encoder.hidden_states(token_ids, cu_seqlens)
    for start, stop in pairwise(cu_seqlens):
        wanted = hidden_states(*model, token_ids[start:stop])
        assert np.abs(got[start:stop] - wanted).max() <= TOLERANCES[kind] * max(1, np.abs(wanted).max())


@pytest.mark.parametrize(("instruction_set", "kind"), OFFERS)
@given(
    heads=st.integers(1, 5),
    head_size=st.sampled_from([8, 26, 32, 40, 64, 96, 128]),
    intermediate=st.integers(1, 200),
    activation=st.sampled_from(list(ACTIVATIONS)),
    first_position=st.integers(0, 3),
    has_types=st.booleans(),
    reach=st.none() | st.integers(1, 20),
    lengths=st.lists(st.integers(1, 70), min_size=1, max_size=6),
    threads=st.integers(1, 3),
)
@settings(max_examples=15, deadline=None)
def test_states_equal_the_reference(
    instruction_set: str,
    kind: GemmType,
    heads: int,
    head_size: int,
    intermediate: int,
    activation: Activation,
    first_position: int,
    has_types: bool,
    reach: int | None,
    lengths: list[int],
    threads: int,
) -> None:
    model = random_encoder(
        heads * head_size + intermediate,
        heads=heads,
        head_size=head_size,
        intermediate=intermediate,
        activation=activation,
        first_position=first_position,
        has_types=has_types,
        reach=reach,
    )
    encoder = NativeEncoder(*model, gemm_type=kind, threads=threads, instruction_set=instruction_set)
    assert_close(encoder, model, lengths, kind)


@pytest.mark.parametrize(("instruction_set", "kind"), OFFERS)
def test_a_long_sequence_passes_in_slices(instruction_set: str, kind: GemmType) -> None:
    model = random_encoder(1, heads=2, layers=1, positions=1500)
    encoder = NativeEncoder(*model, gemm_type=kind, threads=2, instruction_set=instruction_set)
    assert_close(encoder, model, [1300, 3], kind)


@given(
    lengths=st.lists(st.integers(1, 250), min_size=1, max_size=12),
    threads=st.integers(1, 3),
    kind=st.sampled_from(gemm_types() or ("float32",)),
)
@settings(max_examples=30, deadline=None)
def test_a_sequence_alone_equals_it_in_any_company(lengths: list[int], threads: int, kind: GemmType) -> None:
    model = random_encoder(2)
    encoder = NativeEncoder(*model, gemm_type=kind, threads=threads)
    token_ids, cu_seqlens = packed(lengths)
    together = encoder.hidden_states(token_ids, cu_seqlens)
    for start, stop in pairwise(cu_seqlens):
        alone = encoder.hidden_states(token_ids[start:stop], np.array([0, stop - start], np.int32))
        assert np.abs(together[start:stop] - alone).max() <= (1e-6 if kind != "bfloat16" else 2e-2)


@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=30),
    other=st.lists(st.integers(1, 90), min_size=1, max_size=3),
    threads=st.integers(1, 3),
    kind=st.sampled_from(gemm_types() or ("float32",)),
)
@settings(max_examples=30, deadline=None)
def test_a_batch_is_the_same_when_others_run_in_its_midst(
    lengths: list[int], other: list[int], threads: int, kind: GemmType
) -> None:
    encoder = NativeEncoder(*random_encoder(2), gemm_type=kind, threads=threads)
    batch, between = packed(lengths), packed(other, seed=1)
    alone, alone_between = encoder.hidden_states(*batch), encoder.hidden_states(*between)
    seen: list[npt.NDArray[np.float32]] = []
    encoder.allow_preemption(np.zeros(1, np.int64), lambda: seen.append(encoder.hidden_states(*between)))
    np.testing.assert_array_equal(encoder.hidden_states(*batch), alone)
    assert len(seen) >= 2 * 2  # several times in each of two layers
    for states in seen:
        np.testing.assert_array_equal(states, alone_between)


def test_a_batch_makes_way_from_the_moment_on_that_is_set() -> None:
    encoder, batch = NativeEncoder(*random_encoder(2), gemm_type="float32", threads=2), packed([30, 40])
    at, calls = np.full(1, np.iinfo(np.int64).max), []

    def run() -> None:
        calls.append(time.monotonic_ns())
        at[0] = np.iinfo(np.int64).max

    encoder.allow_preemption(at, run)
    encoder.hidden_states(*batch)
    assert calls == []
    for soon in (0, 200_000):  # nanoseconds
        at[0] = wanted = time.monotonic_ns() + soon
        while not calls:
            encoder.hidden_states(*batch)
        assert calls.pop() >= wanted
        assert not calls


@pytest.mark.parametrize("kind", gemm_types())
@pytest.mark.parametrize("threads", [1, 2])
def test_pooling_reads_the_tokens_after_the_prompt(kind: GemmType, threads: int) -> None:
    encoder = NativeEncoder(*random_encoder(3), gemm_type=kind, threads=threads)
    lengths, starts = [9, 4, 130, 2], np.array([0, 2, 5, 2], np.int32)  # the last prompt leaves no token
    token_ids, cu_seqlens = packed(lengths)
    states = np.split(encoder.hidden_states(token_ids, cu_seqlens), cu_seqlens[1:-1])
    counted = [s[min(n, len(s) - 1) :] for s, n in zip(states, starts, strict=True)]
    wanted: dict[PoolingMode, list[npt.NDArray[np.float32]]] = {
        "mean": [c.mean(axis=0) for c in counted],
        "max": [c.max(axis=0) for c in counted],
        "cls": [*(c[0] for c in counted[:3]), states[3][0]],
        "lasttoken": [s[-1] for s in states],
    }
    for mode, vectors in wanted.items():
        got = encoder.embed(token_ids, cu_seqlens, starts, mode)
        np.testing.assert_allclose(got, np.stack(vectors), atol=1e-5)


def test_what_does_not_exist_is_refused() -> None:
    shape, weights = random_encoder(4, positions=8, first_position=2)
    encoder = NativeEncoder(shape, weights, gemm_type="float32", threads=2)
    no_prompt = np.zeros(1, np.int32)
    for token_ids, problem in (([64], "outside the vocabulary"), ([-1], "outside the vocabulary"), ([1] * 7, "longer")):
        with pytest.raises(ValueError, match=problem):
            encoder.embed(np.array(token_ids, np.int32), np.array([0, len(token_ids)], np.int32), no_prompt, "mean")
    with pytest.raises(ValueError, match="no tokens"):
        encoder.embed(np.array([1], np.int32), np.array([0, 0, 1], np.int32), np.zeros(2, np.int32), "mean")
    with pytest.raises(ValueError, match="cu_seqlens"):
        encoder.embed(np.array([1], np.int32), np.array([0, 2], np.int32), no_prompt, "mean")
    with pytest.raises(ValueError, match="cannot run"):
        NativeEncoder(shape, weights, gemm_type="float32", threads=1, instruction_set="vax")


def test_weights_of_a_wrong_shape_are_refused() -> None:
    shape, _ = random_encoder(5, intermediate=96)
    _, weights = random_encoder(5, intermediate=64)
    with pytest.raises(ValueError, match="a weight has the shape"):
        NativeEncoder(shape, weights, gemm_type="float32", threads=1)
