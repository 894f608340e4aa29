"""What a dual encoder reads of images and videos: its folder → VisionSpec. No torch, no transformers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from embedway.model_spec import VideoSpec, VisionSpec
from embedway.models.dual_encoder_config import read_tower, required
from embedway.models.image_processor import read_pixel_spec

if TYPE_CHECKING:
    from embedway.model_spec import PixelSpec
    from embedway.models.image_processor import Kind
    from embedway.models.json_files import JsonObject

VIDEO_FPS = 1.0
"""A dual encoder sees single frames, whose vectors are averaged: neighbours within a second say the same."""
VIDEO_FRAMES = 32
"""Each frame costs a whole image; longer videos are sampled more thinly."""


def read_vision_spec(config: JsonObject, subfolder: str) -> VisionSpec:
    """Of `config.json` as it stands, and the image processor beside it. Raises UnsupportedCheckpoint."""
    kind = cast("Kind", config.text("model_type"))
    tower = read_tower(config, "vision")
    folder = Path(config.folder, subfolder)
    pixels = read_pixel_spec(
        folder, kind, patch_size=required(tower, "patch_size"), class_tokens=1 if kind == "clip" else 0
    )
    check_size(config, kind, pixels, tower.positive("image_size"))
    video = VideoSpec(pixels=pixels, fps=VIDEO_FPS, min_frames=1, max_frames=VIDEO_FRAMES)
    return VisionSpec(image=pixels, video=video)


def check_size(config: JsonObject, kind: Kind, pixels: PixelSpec, image_size: int | None) -> None:
    """Refuse a processor whose images the tower has no positions for: each would fail."""
    if (kind == "siglip2") != (pixels.resize == "patch_budget"):
        config.fail(f"is of the type {kind}, but its image processor resizes by {pixels.resize!r}")
    if kind == "siglip2":
        return
    made = pixels.crop or ((pixels.height, pixels.width) if pixels.resize == "exact" else None)
    if made != (image_size, image_size):
        size = "images of any size" if made is None else f"images of {made[0]}x{made[1]} pixels"
        config.fail(f"reads images of {image_size}x{image_size} pixels, but its image processor makes {size}")
