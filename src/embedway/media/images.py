"""The bytes of an image → a Visual, as transformers' `load_image` and image processors treat the same file."""

from __future__ import annotations

import io
import warnings
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from embedway.media.containers import container_of
from embedway.media.limits import MediaLimits
from embedway.media.pixels import Size, num_tokens, resized, target_size
from embedway.media.refusal import MediaRefused
from embedway.model_spec import PixelSpec
from embedway.visual import Visual

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Pillow's decoders that see what strangers send; those of EPS, PSD, ICNS and so on never do"""

Pixels: TypeAlias = npt.NDArray[np.uint8]


def decode_image(data: bytes, spec: PixelSpec, limits: MediaLimits) -> Visual:
    """Decode the first frame. Raises MediaRefused."""
    Image.MAX_IMAGE_PIXELS = None  # ours is checked below, by the header, and names the flag
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata are nobody's to act on
        try:
            with _opened(data) as image:
                check_pixels(image.height, image.width, limits)
                return _visual(_upright_rgb(image), spec, limits)
        except (MediaRefused, MemoryError):
            raise
        except Exception as error:  # Pillow's decoders raise what they will: OSError, SyntaxError, ValueError, struct's
            raise MediaRefused(f"the image is broken ({_short(error)})") from error


def check_pixels(height: int, width: int, limits: MediaLimits) -> None:
    """Raise MediaRefused for a size that may not be decoded."""
    if not height or not width:
        raise MediaRefused("it has no pixels")
    if height * width > limits.max_image_pixels:
        raise MediaRefused(
            f"has {width} x {height} pixels", limit=f"{limits.max_image_pixels} pixels", flag="--max-image-pixels"
        )


def check_target(spec: PixelSpec, size: Size, num_frames: int, limits: MediaLimits) -> None:
    """Raise MediaRefused where the resized pixels are too many: a thin strip, whose short side is made long, or a
    video whose tokens no sequence could hold."""
    if size[0] * size[1] > max(limits.max_image_pixels, spec.max_pixels):
        raise MediaRefused(
            f"has {size[1]} x {size[0]} pixels once it is resized for the model",
            limit=f"{limits.max_image_pixels} pixels",
            flag="--max-image-pixels",
        )
    tokens = num_tokens(spec, size, num_frames)
    if tokens > limits.max_tokens:
        raise MediaRefused(f"takes {tokens} tokens", limit=f"{limits.max_tokens} tokens", flag="--max-length")


def _opened(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        if container_of(data) not in (None, "gif"):
            raise MediaRefused("it is a video: send it as 'video'") from error
        raise MediaRefused("it is not a JPEG, PNG, WebP, GIF, BMP or TIFF image") from error


def _upright_rgb(image: Image.Image) -> Image.Image:
    """As transformers' `load_image`: turned as EXIF says, then RGB, alpha dropped."""
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    return image if image.mode == "RGB" else image.convert("RGB")


def _visual(image: Image.Image, spec: PixelSpec, limits: MediaLimits) -> Visual:
    size = target_size(spec, (image.height, image.width))
    check_target(spec, size, 1, limits)
    return Visual("image", resized(image, size, spec)[np.newaxis], num_tokens(spec, size))


def _short(error: Exception) -> str:
    """An error of Pillow's in a few words, without objects' addresses."""
    text = str(error).split("\n")[0].split(" <")[0]
    return text[:100] or type(error).__name__
