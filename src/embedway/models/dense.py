"""Dense modules of a sentence-transformers folder: `activation(x @ weight.T + bias)` in float32, after the pooling."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from embedway.errors import UnsupportedCheckpoint
from embedway.models.activations import gelu, identity, relu, sigmoid, silu, tanh
from embedway.models.weight_files import WeightFiles

if TYPE_CHECKING:
    from collections.abc import Callable

    from embedway.kernels.native import Floats
    from embedway.model_spec import DenseSpec, ModelSpec

ACTIVATIONS: dict[str, Callable[[Floats], Floats]] = {
    "Identity": identity,
    "Tanh": tanh,
    "ReLU": relu,
    "GELU": gelu,
    "SiLU": silu,
    "Sigmoid": sigmoid,
}
"""By the name of the torch class; a folder names it with its module, e.g. `torch.nn.modules.activation.Tanh`."""


@dataclass(frozen=True, slots=True)
class Dense:
    """One loaded module; weight is float32 [out, in], bias float32 [out] or None."""

    weight: Floats
    bias: Floats | None
    activation: str
    """A key of ACTIVATIONS"""

    def __call__(self, vectors: Floats) -> Floats:
        """float32 [n, in] to float32 [n, out]"""
        product = vectors @ self.weight.T
        return ACTIVATIONS[self.activation](product if self.bias is None else product + self.bias)


def load_dense_modules(spec: ModelSpec) -> tuple[Dense, ...]:
    """All of them, in order. Raises UnsupportedCheckpoint."""
    return tuple(load_dense(spec.folder, module) for module in spec.dense)


def load_dense(folder: str, spec: DenseSpec) -> Dense:
    """Load `<folder>/<spec.folder>/model.safetensors`. Raises UnsupportedCheckpoint if it is not what the spec says."""
    where = Path(folder, spec.folder)
    module, _, name = spec.activation.rpartition(".")
    if name not in ACTIVATIONS or not (module == "torch.nn" or module.startswith("torch.nn.")):
        known = ", ".join(ACTIVATIONS)
        problem = f"its Dense module has the activation {spec.activation!r}; known are torch.nn's {known}"
        raise UnsupportedCheckpoint(folder=where, problem=problem)
    weights = WeightFiles(where)
    expected: dict[str, tuple[int, ...]] = {"linear.weight": (spec.out_features, spec.in_features)}
    if spec.bias:
        expected["linear.bias"] = (spec.out_features,)
    shapes = weights.shapes()
    if shapes != expected:
        raise UnsupportedCheckpoint(folder=where, problem=f"its weights are {shapes}, but config.json says {expected}")
    return Dense(weights.matrix("linear.weight"), weights.vector("linear.bias") if spec.bias else None, name)
