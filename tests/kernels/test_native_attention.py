"""Native attention against float64: head sizes, directions, windows, grouped heads, biases, both types."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedway.kernels.native import instruction_sets
from embedway.kernels.native_attention import AttentionShape, AttentionType, Strided, attend

pytestmark = pytest.mark.skipif(not instruction_sets(), reason="the native library was not compiled here")

TOLERANCES: dict[AttentionType, float] = {"float32": 2e-6, "bfloat16": 2e-2}
LONGEST = 90


def strided(array: npt.NDArray[np.generic]) -> Strided:
    row, head, _ = (step // array.itemsize for step in array.strides)
    return Strided(array.ctypes.data, row, head)


def to_bf16(x: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def to_float(x: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    return (x.astype(np.uint32) << 16).view(np.float32)


@given(
    seed=st.integers(0, 1000),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    key_size=st.sampled_from([1, 16, 32, 40, 64, 80, 128, 256]),
    value_size=st.sampled_from([1, 16, 32, 40, 64, 80, 128, 256]),
    lengths=st.lists(st.integers(1, LONGEST), min_size=1, max_size=4),
    causal=st.booleans(),
    window=st.none() | st.integers(1, 40),
    has_bias=st.booleans(),
    kind=st.sampled_from(["float32", "bfloat16"]),
    threads=st.integers(1, 2),
)
@settings(max_examples=60, deadline=None)
def test_attention_equals_the_reference(
    seed: int,
    kv_heads: int,
    group: int,
    key_size: int,
    value_size: int,
    lengths: list[int],
    causal: bool,
    window: int | None,
    has_bias: bool,
    kind: AttentionType,
    threads: int,
) -> None:
    rng = np.random.default_rng(seed)
    total, heads = sum(lengths), kv_heads * group
    cu_seqlens = np.cumsum([0, *lengths], dtype=np.int32)
    sizes = ((heads, key_size), (kv_heads, key_size), (kv_heads, value_size), (heads, value_size))
    given_arrays = [rng.standard_normal((total, *size)).astype(np.float32) for size in sizes]
    bias = rng.standard_normal((heads, LONGEST, LONGEST)).astype(np.float32)
    arrays = [to_bf16(array) for array in given_arrays] if kind == "bfloat16" else given_arrays
    query, key, value, out = arrays
    attend(
        *map(strided, arrays),
        shape=AttentionShape(num_heads=heads, num_kv_heads=kv_heads, key_size=key_size, value_size=value_size),
        cu_seqlens=cu_seqlens,
        kind=kind,
        scale=key_size**-0.5,
        causal=causal,
        window=window,
        bias=Strided(bias.ctypes.data, row=LONGEST, head=LONGEST * LONGEST) if has_bias else None,
        threads=threads,
    )
    q, k, v, got = (to_float(a) if kind == "bfloat16" else a for a in (query, key, value, out))
    for start, stop in pairwise(cu_seqlens):
        rows, length = slice(start, stop), stop - start
        keys, values = (x[rows].repeat(group, axis=1) for x in (k, v))
        scores = np.einsum("ihd,jhd->hij", q[rows].astype(np.float64), keys) * key_size**-0.5
        scores += bias[:, :length, :length] if has_bias else 0
        distance = np.arange(length)[:, None] - np.arange(length)[None, :]
        seen = np.abs(distance) < (window or LONGEST + 1)
        scores[:, ~(seen & (distance >= 0) if causal else seen)] = -np.inf
        powers = np.exp(scores - scores.max(axis=2, keepdims=True))
        wanted = np.einsum("hij,jhd->ihd", powers / powers.sum(axis=2, keepdims=True), values)
        assert np.abs(got[rows] - wanted).max() <= TOLERANCES[kind] * max(1, np.abs(wanted).max())


def test_heads_that_do_not_divide_are_refused() -> None:
    array = np.zeros((1, 3, 8), np.float32)
    with pytest.raises(ValueError, match="multiple"):
        attend(
            *[strided(array)] * 4,
            shape=AttentionShape(num_heads=3, num_kv_heads=2, key_size=8, value_size=8),
            cu_seqlens=np.array([0, 1], np.int32),
            kind="float32",
            scale=1.0,
        )
