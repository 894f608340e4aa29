"""MediaLimits: what an image or a video may cost. Made from the settings, sent to each worker once."""

from __future__ import annotations

import msgspec

from embedway.model_spec import ModelSpec

MIB = 1 << 20


NO_LIMIT = 2**31 - 1


def max_visual_tokens(spec: ModelSpec) -> int:
    """Positions that one visual may take. A dual encoder's images have a fixed size, and its tower for images knows
    nothing of the texts' length."""
    return spec.max_length if spec.vision is not None and spec.vision.chat is not None else NO_LIMIT


class MediaLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one item and of what is kept."""

    max_image_pixels: int
    """Of an image, or of a video's frame, as it is stored"""
    max_video_seconds: float
    max_tokens: int
    """Positions that one visual may take: the model's length. Known before the frames of a video are decoded, so it
    bounds the memory of their pixels."""
    timeout_seconds: float
    """For decoding one item, waiting for a worker not counted"""
    max_data_bytes: int = 64 * MIB
    """The largest file that is handed to a worker"""
    max_queued_bytes: int = 2048 * MIB
    """Of all files that wait for a worker together"""
    video_fps: float | None = None
    """Instead of the model's own"""
    video_max_frames: int | None = None
    """Instead of the model's own"""
    cache_bytes: int = 0
    """Of the decoded pixels that are kept"""
