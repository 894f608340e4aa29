"""Images and videos as files in memory, and what models declare of them, for the tests of `media`."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from fractions import Fraction

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

from embedway.media.limits import MediaLimits
from embedway.model_spec import PixelSpec, VideoSpec, VisionSpec

NO_CHANGE = (0.0, 0.0, 0.0)
ONES = (1.0, 1.0, 1.0)
LIMITS = MediaLimits(max_image_pixels=4_000_000, max_video_seconds=1000.0, max_tokens=100_000, timeout_seconds=60.0)


def pixel_spec(
    resize: str = "none", *, patch_size: int = 16, temporal_patch_size: int = 1, **sizes: int | tuple[int, int]
) -> PixelSpec:
    given = {"resize": resize, "patch_size": patch_size, "temporal_patch_size": temporal_patch_size, **sizes}
    return PixelSpec(mean=NO_CHANGE, std=ONES, **given)  # ty: ignore[invalid-argument-type]


CLIP = pixel_spec("shortest_edge", height=224, crop=(224, 224), patch_size=32, class_tokens=1)
SIGLIP = pixel_spec("exact", height=224, width=224)
SIGLIP2 = pixel_spec("patch_budget", max_patches=256, resample=2)
QWEN2 = pixel_spec(
    "smart", patch_size=14, merge_size=2, temporal_patch_size=2, min_pixels=56 * 56, max_pixels=28 * 28 * 1280
)


def video_spec(pixels: PixelSpec, *, fps: float = 2.0, min_frames: int = 4, max_frames: int = 768) -> VideoSpec:
    return VideoSpec(pixels=pixels, fps=fps, min_frames=min_frames, max_frames=max_frames)


def vision_spec(pixels: PixelSpec = CLIP) -> VisionSpec:
    return VisionSpec(image=pixels, video=video_spec(pixels))


def noise(height: int, width: int, *, seed: int = 0, channels: int = 3) -> npt.NDArray[np.uint8]:
    """Smooth at first sight, with every bit in use: what shows a wrong filter."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8 + 2, width // 8 + 2, channels), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def saved(image: Image.Image, format: str, **options: object) -> bytes:  # noqa: A002 - Pillow's own name
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def png(height: int = 48, width: int = 64, *, seed: int = 0) -> bytes:
    return saved(Image.fromarray(noise(height, width, seed=seed)), "PNG")


def counting_frames(count: int, *, height: int = 32, width: int = 48) -> Iterable[npt.NDArray[np.uint8]]:
    """Frame i is of the grey i * 2 % 256."""
    return (np.full((height, width, 3), number * 2 % 256, dtype=np.uint8) for number in range(count))


def video(
    frames: Iterable[npt.NDArray[np.uint8]],
    *,
    container: str = "matroska",
    codec: str = "ffv1",
    pix_fmt: str = "bgr0",
    rate: int = 30,
    times: Sequence[int] | None = None,
    gop: int = 12,
    options: dict[str, str] | None = None,
) -> bytes:
    """A video without sound; `times` are milliseconds, one a frame, instead of a constant rate."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, options=options or {})
        stream.pix_fmt, stream.gop_size = pix_fmt, gop
        if times is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for number, pixels in enumerate(frames):
            if number == 0:
                stream.height, stream.width = pixels.shape[:2]
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def sound(container: str = "matroska") -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream("pcm_s16le" if container == "matroska" else "aac", rate=8000, layout="mono")
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.int16), format="s16", layout="mono")
        samples.rate = 8000
        resampled = av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=8000).resample(samples)
        for frame in resampled:
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()
