"""The weights of a dual encoder by name, their shapes checked, as torch computes with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from embedway.models.cpu_linear import pack_weight
from embedway.models.fused_linear import Linear, Norm
from embedway.models.weight_files import require_weights

if TYPE_CHECKING:
    from embedway.models.weight_files import WeightFiles


@dataclass(frozen=True, slots=True)
class TowerWeights:
    """Makes layers. Products are computed in `dtype`; norms, tables and the residual stream stay float32."""

    files: WeightFiles
    dtype: torch.dtype
    device: torch.device
    pack: bool
    """True: matrices are laid out for oneDNN"""

    def tensor(self, name: str, *shape: int) -> torch.Tensor:
        """float32, on the device; of the file's own pages where they are that. Raises UnsupportedCheckpoint."""
        self._check(name, shape)
        return torch.from_numpy(self.files.matrix(name)).to(self.device)

    def copy(self, name: str, *shape: int) -> torch.Tensor:
        """The same as a copy of its own: what is small must not keep a whole file mapped."""
        return self.tensor(name, *shape).clone()

    def table(self, name: str, *shape: int) -> torch.Tensor:
        """The same for what is looked up row by row: it outlives `files` and takes memory only where it is touched."""
        self._check(name, shape)
        return torch.from_numpy(self.files.table(name)).to(self.device)

    def linear(self, name: str, in_features: int, out_features: int, *, bias: bool = True) -> Linear:
        weight = self.tensor(f"{name}.weight", out_features, in_features)
        return self.made(weight, self.copy(f"{name}.bias", out_features) if bias else None)

    def made(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        """A layer of a float32 weight [out, in]."""
        plain = weight.to(self.dtype)
        own = pack_weight(plain) if self.pack else plain
        return Linear("", own, None if bias is None else bias.to(self.dtype), self.pack)

    def norm(self, name: str, size: int, eps: float) -> Norm:
        return Norm(self.copy(f"{name}.weight", size), self.copy(f"{name}.bias", size), eps)

    def _check(self, name: str, shape: tuple[int, ...]) -> None:
        found = self.files.shapes().get(name)
        if found != shape:
            missing, misshapen = ([name], []) if found is None else ([], [name])
            require_weights(self.files.folder, missing=missing, misshapen=misshapen)
