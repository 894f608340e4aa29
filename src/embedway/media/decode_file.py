"""The bytes of an image or a video → a Visual, in the process that calls."""

from __future__ import annotations

from embedway.media.images import decode_image
from embedway.media.limits import MediaLimits
from embedway.model_spec import VisionSpec
from embedway.visual import MediaKind, Visual


def decode_file(kind: MediaKind, data: bytes, vision: VisionSpec, limits: MediaLimits) -> Visual:
    """Raises MediaRefused."""
    if kind == "image":
        return decode_image(data, vision.image, limits)
    from embedway.media.videos import decode_video  # FFmpeg is loaded by the first video

    return decode_video(data, vision.video, limits)
