"""Attention over packed sequences: every token sees its own sequence and nothing else.

On CUDA torch's varlen attention, on a CPU the native library's, and torch's own for what neither takes.
"""

from __future__ import annotations

import inspect
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention

from embedway.kernels import native_attention
from embedway.kernels.library import load_library

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    import numpy.typing as npt

WINDOW_BLOCK = 512
"""Queries taken together where a window is narrower than the sequence: the mask stays [512, 512 + window]."""


class Run(NamedTuple):
    """Neighbouring sequences of one length, which attention can take as one rectangular batch."""

    start: int
    """the first token's row"""
    count: int
    length: int


@dataclass(frozen=True, slots=True)
class PackedLayout:
    """Where each sequence of a packed batch lies. Sequence i is rows `cu_seqlens[i] … cu_seqlens[i + 1] - 1`."""

    cu_seqlens: torch.Tensor
    """int32 [n + 1], on the model's device"""
    lengths: torch.Tensor
    """int64 [n], on the model's device"""
    runs: tuple[Run, ...]
    max_length: int

    @property
    def num_sequences(self) -> int:
        return len(self.lengths)

    @property
    def num_tokens(self) -> int:
        last = self.runs[-1]
        return last.start + last.count * last.length


def packed_layout(cu_seqlens: npt.NDArray[np.int32], device: torch.device) -> PackedLayout:
    """Read the layout off `cu_seqlens` (int32 [n + 1]); sequences of one length should lie side by side, for speed."""
    on_device = torch.as_tensor(cu_seqlens).to(device)
    lengths = (cu_seqlens[1:] - cu_seqlens[:-1]).tolist()
    runs, start = [], 0
    for length, group in itertools.groupby(lengths):
        count = sum(1 for _ in group)
        runs.append(Run(start, count, length))
        start += count * length
    return PackedLayout(on_device, on_device.diff().long(), tuple(runs), max(lengths))


def varlen_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: PackedLayout,
    *,
    scale: float | None = None,
    causal: bool = False,
    window: int | None = None,
    bias: Callable[[int], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Scaled dot-product attention within each sequence; returns [total, heads, value_dim] in the query's dtype.

    query is [total, heads, dim], key [total, kv_heads, dim] and value [total, kv_heads, value_dim], where heads is a
    multiple of kv_heads; strides are free. Rows behind the last sequence get zeros. scale is 1/√dim where it is None.
    With `window`, token i sees token j only where |i - j| < window (the reading of transformers' attention interface,
    for both directions). bias(length) gives the [heads, length, length] term that is added to the scores, and excludes
    causal and window.
    """
    if bias is None and _flash_varlen is not None and query.is_cuda and query.dtype != torch.float32:
        return _flash(query, key, value, layout, scale=scale, causal=causal, window=window)
    out = query.new_empty(query.shape[0], query.shape[1], value.shape[2])
    out[layout.num_tokens :] = 0
    if bias is None and _is_for_native(query, key, value):
        _native(query, key, value, out, layout, scale=scale, causal=causal, window=window)
        return out
    for start, count, length in layout.runs:
        rows = slice(start, start + count * length)
        # [count, heads, length, dim], views: measured 5-45% faster on CPU than one call a sequence
        q, k, v = (x[rows].unflatten(0, (count, length)).transpose(1, 2) for x in (query, key, value))
        target = out[rows].unflatten(0, (count, length)).transpose(1, 2)
        if window is not None and length > window:
            _windowed(q, k, v, target, scale=scale, causal=causal, window=window)
            continue
        mask = None if bias is None else bias(length)
        target.copy_(_attend(q, k, v, mask, scale=scale, causal=causal))
    return out


NATIVE_TYPES: dict[torch.dtype, native_attention.AttentionType] = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
}


def _is_for_native(*tensors: torch.Tensor) -> bool:
    """The native library's attention is 2 to 5 times as fast as torch's on a CPU, without a mask for a window."""
    return load_library() is not None and all(
        x.is_cpu and x.dtype in NATIVE_TYPES and x.stride(2) == 1 and not x.requires_grad for x in tensors
    )


def _native(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    out: torch.Tensor,
    layout: PackedLayout,
    *,
    scale: float | None,
    causal: bool,
    window: int | None,
) -> None:
    native_attention.attend(
        *(native_attention.Strided(x.data_ptr(), x.stride(0), x.stride(1)) for x in (query, key, value, out)),
        shape=native_attention.AttentionShape(
            num_heads=query.shape[1], num_kv_heads=key.shape[1], key_size=query.shape[2], value_size=value.shape[2]
        ),
        cu_seqlens=layout.cu_seqlens.numpy(),
        kind=NATIVE_TYPES[query.dtype],
        scale=query.shape[2] ** -0.5 if scale is None else scale,
        causal=causal,
        window=window,
        threads=torch.get_num_threads(),
    )


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, *, scale: float | None, causal: bool
) -> torch.Tensor:
    grouped = q.shape[1] != k.shape[1]
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=grouped)


def _windowed(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    *,
    scale: float | None,
    causal: bool,
    window: int,
) -> None:
    """Fill `out` block by block of queries, each against the keys that its window reaches: linear in the length."""
    for queries, keys in _window_blocks(q.shape[2], causal=causal, window=window):
        distance = (
            torch.arange(queries.start, queries.stop, device=q.device)[:, None]
            - torch.arange(keys.start, keys.stop, device=q.device)[None, :]
        )
        mask = distance.abs() < window
        if causal:
            mask &= distance >= 0
        block = _attend(q[:, :, queries], k[:, :, keys], v[:, :, keys], mask, scale=scale, causal=False)
        out[:, :, queries] = block


def _window_blocks(length: int, *, causal: bool, window: int) -> Iterator[tuple[slice, slice]]:
    for start in range(0, length, WINDOW_BLOCK):
        stop = min(start + WINDOW_BLOCK, length)
        reach = stop if causal else min(stop + window - 1, length)
        yield slice(start, stop), slice(max(0, start - window + 1), reach)


def _find_flash_varlen() -> Callable[..., Any] | None:
    """torch's own varlen attention (CUDA, 16-bit), where this torch has the form with windows and grouped heads."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    wanted = {"window_size", "enable_gqa", "scale"}
    return varlen_attn if wanted <= inspect.signature(varlen_attn).parameters.keys() else None


_flash_varlen = _find_flash_varlen() if torch.cuda.is_available() else None


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: PackedLayout,
    *,
    scale: float | None,
    causal: bool,
    window: int | None,
) -> torch.Tensor:
    assert _flash_varlen is not None
    reach = -1 if window is None else window - 1  # flash counts the furthest token seen, not the width
    return _flash_varlen(
        query,
        key,
        value,
        layout.cu_seqlens,
        layout.cu_seqlens,
        layout.max_length,
        layout.max_length,
        scale=scale,
        window_size=(reach, 0 if causal else reach),
        enable_gqa=query.shape[1] != key.shape[1],
    )
