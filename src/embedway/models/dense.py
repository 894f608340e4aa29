"""Dense modules of a sentence-transformers folder: `activation(x @ weight.T + bias)` in float32, after the pooling."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.nn import functional

from embedway.errors import UnsupportedCheckpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from embedway.model_spec import DenseSpec


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
"""By the name of the torch class; a folder names it with its module, e.g. `torch.nn.modules.activation.Tanh`."""


@dataclass(frozen=True, slots=True)
class Dense:
    """One loaded module; weight is float32 [out, in], bias float32 [out] or None."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    activation: Callable[[torch.Tensor], torch.Tensor]

    def __call__(self, vectors: torch.Tensor) -> torch.Tensor:
        """float32 [n, in] to float32 [n, out]"""
        return self.activation(functional.linear(vectors, self.weight, self.bias))


def load_dense(folder: str, spec: DenseSpec, device: torch.device) -> Dense:
    """Load `<folder>/<spec.folder>/model.safetensors`. Raises UnsupportedCheckpoint if it is not what the spec says."""
    where = Path(folder, spec.folder)
    module, _, name = spec.activation.rpartition(".")
    if name not in ACTIVATIONS or not (module == "torch.nn" or module.startswith("torch.nn.")):
        known = ", ".join(ACTIVATIONS)
        problem = f"its Dense module has the activation {spec.activation!r}; known are torch.nn's {known}"
        raise UnsupportedCheckpoint(folder=where, problem=problem)
    try:
        weights = load_file(where / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise UnsupportedCheckpoint(folder=where, problem=f"model.safetensors cannot be read: {error}") from error
    expected = {"linear.weight": (spec.out_features, spec.in_features)}
    if spec.bias:
        expected["linear.bias"] = (spec.out_features,)
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if shapes != expected:
        raise UnsupportedCheckpoint(folder=where, problem=f"its weights are {shapes}, but config.json says {expected}")
    bias = weights["linear.bias"].float().to(device) if spec.bias else None
    return Dense(weights["linear.weight"].float().to(device), bias, ACTIVATIONS[name])
