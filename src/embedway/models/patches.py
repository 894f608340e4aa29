"""Pixels → patches as the Qwen-VL vision towers read them: normalised, flat, in the order of the merged tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from embedway.model_spec import PixelSpec
    from embedway.visual import Visual


def patch_grid(visual: Visual, spec: PixelSpec) -> tuple[int, int, int]:
    """Patches in time, height and width"""
    frames, height, width = visual.pixels.shape[:3]
    return -(-frames // spec.temporal_patch_size), height // spec.patch_size, width // spec.patch_size


def patches_of(visual: Visual, spec: PixelSpec, device: torch.device) -> torch.Tensor:
    """float32 [patches, channels * temporal * patch * patch]: transformers' `Qwen2VLImageProcessor`.

    Each merge_size x merge_size patches that become one token are neighbours. The last frame is repeated where the
    frames do not fill the last patch.
    """
    steps, rows, columns = patch_grid(visual, spec)
    patch, merge, temporal = spec.patch_size, spec.merge_size, spec.temporal_patch_size
    frames = normalized(torch.as_tensor(visual.pixels).to(device), spec)
    missing = steps * temporal - len(frames)
    if missing:
        frames = torch.cat([frames, frames[-1:].expand(missing, -1, -1, -1)])
    # [steps, temporal, block rows, merge, patch, block columns, merge, patch, channels]
    blocks = frames.view(steps, temporal, rows // merge, merge, patch, columns // merge, merge, patch, 3)
    ordered = blocks.permute(0, 2, 5, 3, 6, 8, 1, 4, 7)
    return ordered.reshape(steps * rows * columns, 3 * temporal * patch * patch)


def normalized(pixels: torch.Tensor, spec: PixelSpec) -> torch.Tensor:
    """uint8 [..., 3] to float32 of the same shape"""
    mean, std = (torch.tensor(values, dtype=torch.float32, device=pixels.device) for values in (spec.mean, spec.std))
    return pixels.float().mul_(spec.rescale_factor).sub_(mean).div_(std)
