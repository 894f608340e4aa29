"""What follows a transformer in torch: its hidden states → pooling → Dense modules → vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from embedway.models.pooling import pool
from embedway.models.torch_dense import TorchDense

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from embedway.model_spec import ModelSpec, Pooling
    from embedway.models.attention import PackedLayout
    from embedway.models.dense import Dense


@dataclass(frozen=True, slots=True)
class VectorHead:
    """One model's, on its device."""

    pooling: tuple[Pooling, ...]
    dense: tuple[TorchDense, ...]

    @classmethod
    def of(cls, spec: ModelSpec, dense: tuple[Dense, ...], device: torch.device) -> VectorHead:
        return cls(spec.pooling, tuple(TorchDense.of(module, device) for module in dense))

    def __call__(
        self, hidden: torch.Tensor, layout: PackedLayout, pool_starts: npt.NDArray[np.int32] | None
    ) -> torch.Tensor:
        """[total, hidden] in any float dtype to float32 [n, dimension], not normalised; pool_starts as in `pool`"""
        vectors = pool(hidden, layout, pool_starts, self.pooling)
        for module in self.dense:
            vectors = module(vectors)
        return vectors
