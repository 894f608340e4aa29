from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embedway.models import attention
from embedway.models.attention import packed_layout, varlen_attention

CPU = torch.device("cpu")


def layout_of(lengths: list[int], device: torch.device = CPU) -> attention.PackedLayout:
    return packed_layout(np.cumsum([0, *lengths], dtype=np.int32), device)


def naive_attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, lengths: list[int], *, scale: float, causal: bool, window: int | None
) -> np.ndarray:
    """The definition, in float64, one sequence and one head at a time."""
    out = np.zeros((q.shape[0], q.shape[1], v.shape[2]))
    ends = np.cumsum([0, *lengths])
    for a, b in itertools.pairwise(ends):
        distance = np.arange(b - a)[:, None] - np.arange(b - a)[None, :]
        seen = np.ones_like(distance, bool)
        if causal:
            seen &= distance >= 0
        if window is not None:
            seen &= np.abs(distance) < window
        for head in range(q.shape[1]):
            kv_head = head * k.shape[1] // q.shape[1]
            scores = np.where(seen, q[a:b, head] @ k[a:b, kv_head].T * scale, -np.inf)
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            out[a:b, head] = weights / weights.sum(axis=1, keepdims=True) @ v[a:b, kv_head]
    return out


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    dim=st.sampled_from([4, 16]),
    causal=st.booleans(),
    window=st.none() | st.integers(1, 45),
    block=st.sampled_from([3, 16, 512]),
    is_native=st.booleans(),
    seed=st.integers(0, 99),
)
def test_each_token_sees_what_the_definition_says(
    lengths: list[int],
    kv_heads: int,
    group: int,
    dim: int,
    causal: bool,
    window: int | None,
    block: int,
    is_native: bool,
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    total = sum(lengths)
    q = random.normal(size=(total, kv_heads * group, dim))
    k, v = random.normal(size=(2, total, kv_heads, dim))
    expected = naive_attention(q, k, v, lengths, scale=0.3, causal=causal, window=window)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "WINDOW_BLOCK", block)
        if not is_native:
            patch.setattr(attention, "load_library", lambda: None)
        tensors = (torch.tensor(x, dtype=torch.float32) for x in (q, k, v))
        got = varlen_attention(*tensors, layout_of(lengths), scale=0.3, causal=causal, window=window)
    np.testing.assert_allclose(got.numpy(), expected, atol=3e-6)


def test_equal_neighbouring_lengths_are_one_run() -> None:
    assert layout_of([3, 3, 5, 3]).runs == ((0, 2, 3), (6, 1, 5), (11, 1, 3))


def test_a_long_window_is_computed_in_blocks_that_stay_narrow() -> None:
    blocks = list(attention._window_blocks(5000, causal=False, window=64))
    assert blocks[0] == (slice(0, 512), slice(0, 575))
    assert blocks[1] == (slice(512, 1024), slice(449, 1087))
    assert blocks[-1] == (slice(4608, 5000), slice(4545, 5000))


def test_bias_is_added_to_the_scores_of_each_sequence() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 7, 2, 8)
    table = torch.randn(2, 9, 9)
    got = varlen_attention(q, k, v, layout_of([3, 4]), bias=lambda length: table[:, :length, :length])
    for a, b in ((0, 3), (3, 7)):
        scores = torch.einsum("ihd,jhd->hij", q[a:b], k[a:b]) / 8**0.5 + table[:, : b - a, : b - a]
        torch.testing.assert_close(got[a:b], torch.einsum("hij,jhd->ihd", scores.softmax(-1), v[a:b]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 8])
def test_cuda_agrees_with_cpu(dtype: torch.dtype, causal: bool, window: int | None) -> None:
    torch.manual_seed(0)
    lengths = [1, 17, 60, 17]
    q, k, v = torch.randn(95, 4, 64), torch.randn(95, 2, 64), torch.randn(95, 2, 64)
    expected = varlen_attention(q, k, v, layout_of(lengths), causal=causal, window=window)
    cuda = torch.device("cuda")
    on_cuda = (x.to(cuda, dtype) for x in (q, k, v))
    got = varlen_attention(*on_cuda, layout_of(lengths, cuda), causal=causal, window=window)
    torch.testing.assert_close(got.float().cpu(), expected, atol=1e-4 if dtype == torch.float32 else 3e-2, rtol=0)


def test_positions_begin_anew_in_each_sequence() -> None:
    layout = layout_of([3, 1, 2])
    assert layout.positions.tolist() == [0, 1, 2, 0, 0, 1]
    assert layout.num_tokens == 6


def test_lengths_that_only_the_device_knows_are_refused_where_the_host_needs_them() -> None:
    layout = replace(layout_of([3, 4]), runs=())
    with pytest.raises(NotImplementedError, match="on the host"):
        varlen_attention(*torch.randn(3, 7, 2, 8), layout)
