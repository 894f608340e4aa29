from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers.sentence_transformer.modules import Pooling

from embedway.models import numpy_pooling
from embedway.models.attention import packed_layout
from embedway.models.pooling import POOLINGS, pool

if TYPE_CHECKING:
    from collections.abc import Callable

    Pooled = Callable[[np.ndarray, list[int], list[int], tuple], np.ndarray]

MODES = tuple(POOLINGS)


def in_torch(hidden: np.ndarray, lengths: list[int], starts: list[int], modes: tuple) -> np.ndarray:
    layout = packed_layout(np.cumsum([0, *lengths], dtype=np.int32), torch.device("cpu"))
    return pool(torch.tensor(hidden), layout, np.array(starts, np.int32), modes).numpy()


def in_numpy(hidden: np.ndarray, lengths: list[int], starts: list[int], modes: tuple) -> np.ndarray:
    vectors = numpy_pooling.pool(hidden, np.cumsum([0, *lengths], dtype=np.int32), np.array(starts, np.int32), modes)
    assert vectors.dtype == np.float32
    return vectors


both = pytest.mark.parametrize("pooled", [in_torch, in_numpy])


def naive_pool(states: np.ndarray, start: int, mode: str) -> np.ndarray:
    """One sequence [length, size] in float64, by the definition."""
    length = len(states)
    kept = states[min(start, length - 1) :]
    positions = np.arange(1, length + 1)[min(start, length - 1) :, None]
    match mode:
        case "cls":
            return states[start if start < length else 0]
        case "lasttoken":
            return states[-1]
        case "max":
            return kept.max(axis=0)
        case "mean":
            return kept.mean(axis=0)
        case "mean_sqrt_len_tokens":
            return kept.sum(axis=0) / np.sqrt(len(kept))
        case _:
            return (kept * positions).sum(axis=0) / positions.sum()


@both
@settings(deadline=None)
@given(
    shape=st.lists(st.tuples(st.integers(1, 30), st.integers(0, 32)), min_size=1, max_size=8),
    mode=st.sampled_from(MODES),
    seed=st.integers(0, 99),
)
def test_every_mode_follows_its_definition(pooled: Pooled, shape: list[tuple[int, int]], mode: str, seed: int) -> None:
    lengths, starts = [length for length, _ in shape], [start for _, start in shape]
    hidden = np.random.default_rng(seed).normal(size=(sum(lengths), 5)).astype(np.float32)
    sequences = np.split(hidden.astype(np.float64), np.cumsum(lengths)[:-1])
    expected = [naive_pool(states, start, mode) for states, start in zip(sequences, starts, strict=True)]
    np.testing.assert_allclose(pooled(hidden, lengths, starts, (mode,)), expected, rtol=2e-6, atol=2e-6)


@both
@pytest.mark.parametrize("prompt_length", [0, 2])
def test_the_modes_agree_with_sentence_transformers(pooled: Pooled, prompt_length: int) -> None:
    lengths = [3, 9, 4]
    hidden = np.random.default_rng(1).normal(size=(16, 6)).astype(np.float32)
    theirs = Pooling(6, pooling_mode=MODES, include_prompt=False)
    padded = torch.zeros(3, 9, 6)
    mask = torch.zeros(3, 9, dtype=torch.int64)
    for i, states in enumerate(np.split(hidden, np.cumsum(lengths)[:-1])):
        padded[i, : len(states)], mask[i, : len(states)] = torch.tensor(states), 1
    features = {"token_embeddings": padded, "attention_mask": mask, "prompt_length": prompt_length}
    expected = theirs(features)["sentence_embedding"].numpy()
    np.testing.assert_allclose(pooled(hidden, lengths, [prompt_length] * 3, MODES), expected, atol=2e-6)


@both
@pytest.mark.parametrize("mode", MODES)
def test_huge_neighbours_change_nothing(pooled: Pooled, mode: str) -> None:
    states = np.random.default_rng(2).normal(size=(7, 4)).astype(np.float32)
    huge = np.full((5, 4), 1e8, np.float32)
    alone = pooled(states, [7], [0], (mode,))[0]
    between = pooled(np.concatenate([huge, states, huge]), [5, 7, 5], [0, 0, 0], (mode,))[1]
    np.testing.assert_array_equal(between, alone)


@both
def test_a_prompt_that_is_all_of_the_sequence_still_gives_a_vector(pooled: Pooled) -> None:
    states = np.arange(6, dtype=np.float32).reshape(3, 2)
    got = pooled(states, [3], [3], ("cls", "max", "mean"))
    np.testing.assert_array_equal(got, [[0, 1, 4, 5, 4, 5]])


def test_half_precision_states_are_pooled_in_float32() -> None:
    states = torch.full((4096, 1), 0.1, dtype=torch.bfloat16)
    layout = packed_layout(np.array([0, 4096], np.int32), torch.device("cpu"))
    vector = pool(states, layout, None, ("mean",))
    assert vector.dtype == torch.float32
    assert vector.item() == pytest.approx(states[0].item(), rel=1e-6)


def test_numpy_has_every_mode_that_torch_has() -> None:
    assert numpy_pooling.POOLINGS.keys() == POOLINGS.keys()


@pytest.mark.parametrize("modes", [(mode,) for mode in MODES], ids=MODES)
def test_leaving_out_nothing_needs_no_starts(modes: tuple) -> None:
    hidden = torch.tensor(np.random.default_rng(2).normal(size=(9, 4)).astype(np.float32))
    layout = packed_layout(np.array([0, 4, 9], np.int32), torch.device("cpu"))
    expected = pool(hidden, layout, np.zeros(2, np.int32), modes)
    torch.testing.assert_close(pool(hidden, layout, None, modes), expected, rtol=0, atol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("modes", [(mode,) for mode in MODES], ids=MODES)
@pytest.mark.parametrize("starts", [None, [2, 0, 9]])
def test_cuda_pools_alike(modes: tuple, starts: list[int] | None) -> None:
    hidden = torch.tensor(np.random.default_rng(3).normal(size=(12, 4)).astype(np.float32))
    ends, own = np.array([0, 4, 9, 12], np.int32), None if starts is None else np.array(starts, np.int32)
    expected = pool(hidden, packed_layout(ends, torch.device("cpu")), own, modes)
    got = pool(hidden.cuda(), packed_layout(ends, torch.device("cuda")), own, modes)
    torch.testing.assert_close(got.cpu(), expected, rtol=1e-6, atol=1e-6)
