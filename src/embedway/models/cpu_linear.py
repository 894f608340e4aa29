"""Faster linear layers on CPU: weights laid out once for oneDNN, where a measurement on this machine says that it pays.

torch hands a float32 `nn.Linear` to MKL, which is slow on some CPUs, and lays a 16-bit weight out anew at each call.
Which is faster is measured, not guessed from the CPU's name.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import nn
from torch.nn.functional import linear as plain_linear

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# ruff: noqa: SLF001 - torch gives these operators, which its own compiler calls, no public name
ONEDNN = torch.ops.mkldnn
SAMPLE_ROWS = 64
"""Tokens of the measured call: between one short query and a full batch."""
LAYOUT_ROWS = 4096
"""What oneDNN is told to lay the weights out for; any number of rows works."""
NEEDED_GAIN = 1.03
"""Packed weights cannot be read back, so a tie goes to the plain layer."""


FusedActivation: TypeAlias = Literal["gelu", "gelu_tanh", "relu", "silu"]

FUSED: dict[FusedActivation | None, tuple[str, str]] = {
    None: ("none", ""),
    "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
    "relu": ("relu", ""),
    "silu": ("swish", ""),
}
"""What oneDNN applies in the same call, by its own names"""


def pack_weight(weight: torch.Tensor) -> torch.Tensor:
    """[out, in] in oneDNN's own layout: opaque, for `packed_linear` alone."""
    return ONEDNN._reorder_linear_weight(weight.detach(), LAYOUT_ROWS)


def packed_linear(
    x: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None, activation: FusedActivation | None = None
) -> torch.Tensor:
    """[..., in] to [..., out], in the weight's dtype"""
    name, variant = FUSED[activation]
    return ONEDNN._linear_pointwise(x, packed, bias, name, [], variant)


class PackedLinear(nn.Module):
    """`nn.Linear` for inference on CPU, its weight in oneDNN's own layout; the plain weight is gone."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        # some models ask a layer for its weight's dtype before they call it
        self.weight = torch.empty(0, dtype=linear.weight.dtype)
        # plain attributes: an opaque tensor can be neither saved nor moved, so it is no parameter
        self.packed = pack_weight(linear.weight)
        self.plain_bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] to [..., out], in the weight's dtype"""
        return packed_linear(x, self.packed, self.plain_bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.plain_bias is not None}"


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this machine's oneDNN computes in `dtype` (float16 needs a CPU with AVX-512 FP16 or AMX-FP16)."""
    if not torch.backends.mkldnn.is_available() or not hasattr(ONEDNN, "_linear_pointwise"):
        return False
    if dtype == torch.bfloat16:
        return ONEDNN._is_mkldnn_bf16_supported()
    if dtype == torch.float16:
        return ONEDNN._is_mkldnn_fp16_supported()
    return dtype == torch.float32


@torch.inference_mode()
def packing_gain(weight: torch.Tensor, bias: torch.Tensor | None, *, rows: int = SAMPLE_ROWS) -> float:
    """How many times faster a packed layer is for so many tokens on this machine; takes a few milliseconds."""
    x = torch.randn(1, rows, weight.shape[1]).to(weight.dtype)
    packed = pack_weight(weight)
    plain_seconds, packed_seconds = [], []
    for _ in range(5):  # in turns, so that a busy moment hits both
        plain_seconds.append(_seconds(lambda: plain_linear(x, weight, bias)))
        packed_seconds.append(_seconds(lambda: packed_linear(x, packed, bias)))
    return min(plain_seconds[1:]) / min(packed_seconds[1:])


@torch.inference_mode()
def pack_linears(model: nn.Module) -> int:
    """Replace the model's linear layers by packed ones if that is faster here; returns how many were replaced.

    Only exact `nn.Linear` layers on CPU are touched, and none whose weight another module shares.
    """
    linears = list(_own_linears(model))
    if not linears:
        return 0
    largest = max((linear for _, _, linear in linears), key=lambda linear: linear.weight.numel())
    if not can_pack(largest.weight.dtype) or packing_gain(largest.weight, largest.bias) < NEEDED_GAIN:
        return 0
    alike = [item for item in linears if item[2].weight.dtype == largest.weight.dtype]
    del linears, largest
    for _ in range(num_packed := len(alike)):
        parent, name, linear = alike.pop()
        setattr(parent, name, PackedLinear(linear))  # frees the plain weight at once: never two copies of the model
    return num_packed


def _own_linears(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """Each plain layer on CPU that alone holds its weight: (its parent, its name there, the layer)."""
    holders = Counter(id(tensor) for module in model.modules() for tensor in module.parameters(recurse=False))
    for parent in model.modules():
        for name, child in parent.named_children():
            # exact type: a subclass may compute something else
            if type(child) is nn.Linear and child.weight.is_cpu and holders[id(child.weight)] == 1:
                yield parent, name, child


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
