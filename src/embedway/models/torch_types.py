"""The weights' types by name, as torch has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from embedway.kernels.native import GemmType

TORCH_TYPES: dict[GemmType, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
