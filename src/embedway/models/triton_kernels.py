"""What torch computes in a launch for each step, in one: on CUDA, for rows in float32 or a 16-bit type.

Such steps do little with each value that they read and write, so that the number of passes is what they cost. Triton
comes with torch's builds for CUDA; it compiles a kernel when it first meets a width, and needs a C compiler for that.
All arithmetic is in float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton  # ty: ignore[import-not-found] - with torch for CUDA alone
import triton.language as tl  # ty: ignore[import-not-found]

if TYPE_CHECKING:
    from embedway.models.fused_linear import Norm

BLOCK_VALUES = 2048
"""Of a program, where a row has fewer"""


def norm_of_sum(
    hidden: torch.Tensor, added: torch.Tensor, norm: Norm, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `residual_norm.norm_of_sum`; both are contiguous, and the sum's norm is written over `hidden`."""
    rows, columns = hidden.shape
    narrow = torch.empty_like(hidden, dtype=dtype)
    block = triton.next_power_of_2(columns)
    with torch.cuda.device_of(hidden):
        _norm_of_sum[(rows,)](hidden, added, norm.weight, norm.bias, narrow, columns, norm.eps, block=block)
    return hidden, narrow


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """[…, columns] over the root of its mean square, times weight [columns]; in x's type (arXiv:1910.07467)."""
    x, columns = x.contiguous(), x.shape[-1]
    out, rows = torch.empty_like(x), x.numel() // columns
    block = triton.next_power_of_2(columns)
    together = max(1, BLOCK_VALUES // block)
    with torch.cuda.device_of(x):
        _rms_norm[(triton.cdiv(rows, together),)](x, weight, out, rows, columns, eps, together=together, block=block)
    return out


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions: [1, heads, total, size] by cos and sin [1, total, size] (arXiv:2104.09864, in halves).

    The values of a head lie together in x; cos and sin are contiguous.
    """
    _, heads, total, size = x.shape
    out = x.new_empty(1, total, heads, size)
    blocks = {"head_block": triton.next_power_of_2(heads), "half_block": triton.next_power_of_2(size // 2)}
    with torch.cuda.device_of(x):
        _rotate[(total,)](x, cos, sin, out, x.stride(2), x.stride(1), heads, size // 2, **blocks)
    return out.transpose(1, 2)


def silu_times(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(gate) · up, of contiguous tensors of one shape and type"""
    out, count = torch.empty_like(gate), gate.numel()
    with torch.cuda.device_of(gate):
        _silu_times[(triton.cdiv(count, BLOCK_VALUES),)](gate, up, out, count, block=BLOCK_VALUES)
    return out


@triton.jit
def _norm_of_sum(hidden, added, weight, bias, narrow, columns, eps, block: tl.constexpr):
    """A row a program: float32 hidden[row] and narrow[row] are layer_norm(hidden[row] + added[row])."""
    column = tl.arange(0, block)
    place = tl.program_id(0).to(tl.int64) * columns + column
    inside = column < columns
    x = tl.load(hidden + place, mask=inside, other=0.0)
    x += tl.load(added + place, mask=inside, other=0.0).to(tl.float32)
    centred = tl.where(inside, x - tl.sum(x, axis=0) / columns, 0.0)
    variance = tl.sum(centred * centred, axis=0) / columns
    scale = tl.load(weight + column, mask=inside) / tl.sqrt(variance + eps)
    out = centred * scale + tl.load(bias + column, mask=inside)
    tl.store(hidden + place, out, mask=inside)
    tl.store(narrow + place, out.to(narrow.dtype.element_ty), mask=inside)


@triton.jit
def _rms_norm(x, weight, out, rows, columns, eps, together: tl.constexpr, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * together + tl.arange(0, together)[:, None]
    column = tl.arange(0, block)[None, :]
    place, inside = row * columns + column, (row < rows) & (column < columns)
    values = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    mean_square = tl.sum(values * values, axis=1, keep_dims=True) / columns
    factors = tl.load(weight + column, mask=column < columns, other=0.0).to(tl.float32)
    normal = values / tl.sqrt(mean_square + eps) * factors
    tl.store(out + place, normal.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _rotate(
    x, cos, sin, out, token_stride, head_stride, heads, half, head_block: tl.constexpr, half_block: tl.constexpr
):
    """A token a program, all its heads."""
    token = tl.program_id(0).to(tl.int64)
    head, column = tl.arange(0, head_block)[:, None], tl.arange(0, half_block)[None, :]
    inside = (head < heads) & (column < half)
    source = x + token * token_stride + head * head_stride + column
    first = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(source + half, mask=inside, other=0.0).to(tl.float32)
    angle = token * 2 * half + column
    cos_first, sin_first = _angle(cos, sin, angle, column < half)
    cos_second, sin_second = _angle(cos, sin, angle + half, column < half)
    target = out + token * 2 * half * heads + head * 2 * half + column
    tl.store(target, (first * cos_first - second * sin_first).to(out.dtype.element_ty), mask=inside)
    tl.store(target + half, (second * cos_second + first * sin_second).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _angle(cos, sin, place, inside):
    return tl.load(cos + place, mask=inside, other=0.0).to(tl.float32), tl.load(sin + place, mask=inside, other=0.0).to(
        tl.float32
    )


@triton.jit
def _silu_times(gate, up, out, count, block: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = place < count
    x = tl.load(gate + place, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(up + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + place, (x * tl.sigmoid(x) * y).to(out.dtype.element_ty), mask=inside)
