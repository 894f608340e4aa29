"""Made-up images for a model's first batches, as its own `PixelSpec` would have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embedway.models.interface import PackedBatch
from embedway.models.sample_batch import sample_token_ids
from embedway.visual import VISUAL_TOKEN, Visual

if TYPE_CHECKING:
    from embedway.model_spec import ModelSpec, PixelSpec

USUAL_SIDE = 448
"""Pixels, where the model takes images of any size"""


def image_batch(count: int, spec: ModelSpec) -> PackedBatch:
    """So many items of one image each, of a model that reads them; a prompt has a few tokens around it."""
    assert spec.vision is not None
    pixels, chat = spec.vision.image, spec.vision.chat
    visual = sample_image(pixels)
    text = sample_token_ids(8, spec) if chat else np.empty(0, np.int32)
    placeholder = np.full(visual.num_tokens, chat.image_token_id if chat else VISUAL_TOKEN, np.int32)
    sequence = np.concatenate([text, placeholder, text])
    return PackedBatch(
        token_ids=np.tile(sequence, count),
        cu_seqlens=np.arange(0, count * len(sequence) + 1, len(sequence), dtype=np.int32),
        pool_starts=np.zeros(count, np.int32),
        visuals=dict.fromkeys(range(count), (visual,)),
    )


def sample_image(pixels: PixelSpec) -> Visual:
    height, width = frame_size(pixels)
    values = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    patches = height // pixels.patch_size * (width // pixels.patch_size)
    return Visual("image", values, patches // pixels.merge_size**2 + pixels.class_tokens)


def frame_size(pixels: PixelSpec) -> tuple[int, int]:
    """Height and width after resizing and cropping: of whole patches."""
    if pixels.crop is not None:
        return pixels.crop
    unit = pixels.patch_size * pixels.merge_size
    match pixels.resize:
        case "exact":
            return pixels.height, pixels.width
        case "shortest_edge":
            side = pixels.height
        case "smart":
            side = min(USUAL_SIDE, int(pixels.max_pixels**0.5))
        case "patch_budget":
            side = int(pixels.max_patches**0.5) * unit
        case "none":
            side = USUAL_SIDE
    side = max(unit, side // unit * unit)
    return side, side
