"""Dense modules in torch, on the model's device; `dense.py` loads them and computes them in numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

    from embedway.models.dense import Dense


def _unchanged(x: torch.Tensor) -> torch.Tensor:
    return x


ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "Identity": _unchanged,
    "Tanh": torch.tanh,
    "ReLU": functional.relu,
    "GELU": functional.gelu,
    "SiLU": functional.silu,
    "Sigmoid": torch.sigmoid,
}
"""By the keys of `dense.ACTIVATIONS`"""


@dataclass(frozen=True, slots=True)
class TorchDense:
    """float32 on its device."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    activation: str

    @classmethod
    def of(cls, dense: Dense, device: torch.device) -> TorchDense:
        bias = None if dense.bias is None else torch.from_numpy(dense.bias).to(device)
        return cls(torch.from_numpy(dense.weight).to(device), bias, dense.activation)

    def __call__(self, vectors: torch.Tensor) -> torch.Tensor:
        """float32 [n, in] to float32 [n, out]"""
        return ACTIVATIONS[self.activation](functional.linear(vectors, self.weight, self.bias))
