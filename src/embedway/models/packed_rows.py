"""The rows of a packed batch as torch's modules take them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from embedway.models.attention import PackedLayout

ROW_MULTIPLE = 16
"""oneDNN compiles a kernel for each number of rows that it meets and keeps a thousand, of 0.4 MB each: mixed traffic
cost 700 MB, measured. So a whole batch (not a sequence) gets up to 15 spare rows on a CPU, which no sequence sees."""


def with_spare_rows(ids: torch.Tensor) -> torch.Tensor:
    """[total] to [total + spare]: on a CPU the last id is repeated up to the next multiple of ROW_MULTIPLE."""
    spare = -len(ids) % ROW_MULTIPLE if ids.device.type == "cpu" else 0
    return torch.cat([ids, ids[-1:].expand(spare)]) if spare else ids


def packed_positions(layout: PackedLayout, first: int) -> torch.Tensor:
    """int64 [total]: `first`, first + 1, … anew in each sequence."""
    shift = torch.repeat_interleave(layout.cu_seqlens[:-1].long() - first, layout.lengths)
    return torch.arange(len(shift), device=shift.device) - shift
