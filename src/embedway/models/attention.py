"""Attention over packed sequences: every token sees its own sequence and nothing else.

On CUDA flash attention in its form for packed sequences, on a CPU the native library's, and torch's own for what
neither takes.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from embedway.kernels import native_attention
from embedway.kernels.library import load_library
from embedway.models.device_copies import to_device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
    positions: torch.Tensor
    """int64 [total], on the model's device: 0, 1, … anew in each sequence"""
    runs: tuple[Run, ...]
    """Empty where only the device knows the lengths, as in a CUDA graph: then flash attention alone can run."""
    num_tokens: int
    max_length: int

    @property
    def num_sequences(self) -> int:
        return len(self.lengths)


def token_positions(cu_seqlens: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """int64 [total]: each token's place in its sequence. On the host, for a GPU would have to be waited for."""
    return np.arange(cu_seqlens[-1]) - np.repeat(cu_seqlens[:-1], np.diff(cu_seqlens))


def packed_layout(cu_seqlens: npt.NDArray[np.int32], device: torch.device) -> PackedLayout:
    """Read the layout off `cu_seqlens` (int32 [n + 1]); sequences of one length should lie side by side, for speed."""
    on_device = to_device(cu_seqlens, device)
    lengths = np.diff(cu_seqlens).tolist()
    runs, start = [], 0
    for length, group in itertools.groupby(lengths):
        count = sum(1 for _ in group)
        runs.append(Run(start, count, length))
        start += count * length
    return PackedLayout(
        cu_seqlens=on_device,
        lengths=on_device.diff().long(),
        positions=to_device(token_positions(cu_seqlens), device),
        runs=tuple(runs),
        num_tokens=start,
        max_length=max(lengths),
    )


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
    if bias is None and is_for_flash(query, value):
        return _flash(query, key, value, layout, scale=scale, causal=causal, window=window)
    if not layout.runs:
        raise NotImplementedError("these heads need the lengths of the sequences on the host")
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


FLASH_TYPES = (torch.float16, torch.bfloat16)
MAX_FLASH_SIZE = 256
"""Of a head"""


def is_for_flash(query: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether flash attention takes these heads: 16-bit ones on CUDA, of one size that is a multiple of 8."""
    size = query.shape[2]
    fits = size == value.shape[2] and size % 8 == 0 and size <= MAX_FLASH_SIZE
    return fits and query.is_cuda and query.dtype in FLASH_TYPES


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
    """What `torch.nn.attention.varlen.varlen_attn` calls. That itself has windows and grouped heads only in the newest
    releases, and costs a small model more than the kernel."""
    reach = None if window is None else window - 1  # flash counts the furthest token seen, not the width
    return torch.ops.aten._flash_attention_forward(  # noqa: SLF001 - the public form differs between releases
        *(query, key, value, layout.cu_seqlens, layout.cu_seqlens, layout.max_length, layout.max_length),
        dropout_p=0.0,
        is_causal=causal,
        return_debug_mask=False,
        scale=scale,
        window_size_left=reach,
        window_size_right=0 if causal and reach is not None else reach,
    )[0]
