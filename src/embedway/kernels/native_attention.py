"""Attention over packed sequences in the native library, for models whose other layers are run elsewhere.

Takes addresses and strides, so that any library's tensors fit; this one needs none of them.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from embedway.kernels.library import AttentionStruct, ErrorText, load_library

AttentionType = Literal["float32", "bfloat16"]
TYPES: tuple[AttentionType, ...] = get_args(AttentionType)


@dataclass(frozen=True, slots=True)
class Strided:
    """An array [rows, heads, size] whose last axis is contiguous. Strides are in values."""

    address: int
    row: int
    head: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionShape:
    """num_heads is a multiple of num_kv_heads, whose groups of query heads are neighbours."""

    num_heads: int
    num_kv_heads: int
    key_size: int
    value_size: int


def attend(
    query: Strided,
    key: Strided,
    value: Strided,
    out: Strided,
    *,
    shape: AttentionShape,
    cu_seqlens: npt.NDArray[np.int32],
    kind: AttentionType,
    scale: float,
    causal: bool = False,
    window: int | None = None,
    bias: Strided | None = None,
    threads: int = 1,
) -> None:
    """Write softmax(q · kᵀ · scale + bias) · v into `out`, each sequence by itself; all four arrays are of `kind`.

    Sequence i is rows `cu_seqlens[i] … cu_seqlens[i + 1] - 1`. With `window`, token i sees token j where
    |i - j| < window. `bias` is float32 [heads, length, length] for the longest sequence, `row` from query to query.
    More than one thread is used where an OpenMP runtime is in the process. Raises ValueError for a shape that does not
    fit, RuntimeError where there is no library.
    """
    library = load_library()
    if library is None:
        raise RuntimeError("there is no native library")
    ends, error = np.ascontiguousarray(cu_seqlens, np.int32), ErrorText()
    call = AttentionStruct(
        query=query.address,
        key=key.address,
        value=value.address,
        out=out.address,
        cu_seqlens=ends.ctypes.data,
        num_sequences=len(ends) - 1,
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        key_size=shape.key_size,
        value_size=shape.value_size,
        type=TYPES.index(kind),
        query_row=query.row,
        query_head=query.head,
        key_row=key.row,
        key_head=key.head,
        value_row=value.row,
        value_head=value.head,
        out_row=out.row,
        out_head=out.head,
        scale=scale,
        causal=causal,
        window=window or 0,
        bias=bias.address if bias else None,
        bias_head=bias.head if bias else 0,
        bias_row=bias.row if bias else 0,
    )
    if library.embedway_attention(call, None, threads, openmp_parallel() if threads > 1 else None, error):
        raise error.exception()


@functools.cache
def openmp_parallel() -> int | None:
    """The address of GOMP_parallel, where a library in this process (torch) has brought its OpenMP runtime.

    Its threads then do our work too: threads of our own would fight with them for the cores.
    """
    try:
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p).value
    except (AttributeError, OSError):
        return None
