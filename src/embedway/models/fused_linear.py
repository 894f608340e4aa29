"""A layer's products and norms, as the fused torch encoders compute them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn import functional

from embedway.models.cpu_linear import packed_linear
from embedway.models.torch_adapter import changes_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedway.models.cpu_linear import FusedActivation
    from embedway.models.torch_adapter import AdaptedRows


class Linear(NamedTuple):
    """A layer's weight, in oneDNN's layout where `is_packed`, and bias."""

    name: str
    """By which adapters change it"""
    weight: torch.Tensor
    bias: torch.Tensor | None
    is_packed: bool

    def __call__(
        self, x: torch.Tensor, adapted: Sequence[AdaptedRows] = (), activation: FusedActivation | None = None
    ) -> torch.Tensor:
        """[rows, in] to [rows, out], in the weight's dtype"""
        changes = changes_of(adapted, self.name)
        if self.is_packed and not changes:
            return packed_linear(x, self.weight, self.bias, activation)
        out = (
            packed_linear(x, self.weight, self.bias) if self.is_packed else functional.linear(x, self.weight, self.bias)
        )
        for rows, change in changes:
            change.add(x, out, rows)
        return activate(out, activation)


def activate(x: torch.Tensor, activation: FusedActivation | None) -> torch.Tensor:
    match activation:
        case "gelu":
            return functional.gelu(x)
        case "gelu_tanh":
            return functional.gelu(x, approximate="tanh")
        case "relu":
            return functional.relu(x)
        case "silu":
            return functional.silu(x)
        case None:
            return x


class Norm(NamedTuple):
    """Layer norm, float32."""

    weight: torch.Tensor
    bias: torch.Tensor
    eps: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)
