"""Images and videos of the Python API: decoded in the caller's own process, and read from the caller's own files."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path

from PIL import Image

from embedway.errors import MediaNotAllowed, MediaUnreadable
from embedway.media.decode_file import decode_file
from embedway.media.inline_data import decode_inline
from embedway.media.limits import MIB, MediaLimits, max_visual_tokens
from embedway.media.refusal import MediaRefused
from embedway.media.source_form import LocalFile, Remote, read_form
from embedway.model_spec import ModelSpec
from embedway.visual import KIND_IN_WORDS, MediaRef, Visual

MAX_BYTES = 4096 * MIB


def as_text(value: object) -> object:
    """An image or a video as Python has it (a path, bytes, Pillow's image) as a request would; all else as it is."""
    if isinstance(value, Path):
        return value.absolute().as_uri()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, str) and len(value) < 4096 and os.path.isfile(value):  # noqa: PTH113 - any string is fine here
        return Path(value).absolute().as_uri()
    if isinstance(value, Image.Image):
        file = io.BytesIO()
        value.save(file, "PNG")
        return as_text(file.getvalue())
    return value


def read_here(ref: MediaRef, spec: ModelSpec) -> Visual:
    """Raises MediaNotAllowed for a URL, MediaUnreadable, MediaTooLarge or InvalidValue."""
    assert spec.vision is not None
    limits = MediaLimits(
        max_image_pixels=256_000_000, max_video_seconds=86_400, max_tokens=max_visual_tokens(spec), timeout_seconds=0
    )
    data = _read(ref)
    try:
        return decode_file(ref.kind, data, spec.vision, limits)
    except MediaRefused as refused:
        raise refused.refusal.as_error(ref.kind, ref.param) from refused


def _read(ref: MediaRef) -> bytes:
    match read_form(ref.given, param=ref.param):
        case Remote():
            raise MediaNotAllowed(param=ref.param, problem="it is a URL, and nothing is fetched here: give its bytes")
        case LocalFile(path):
            try:
                return Path(path).read_bytes()
            except OSError as error:
                problem = f"the file cannot be read ({(error.strerror or 'unknown cause').lower()})"
                raise MediaUnreadable(param=ref.param, kind=KIND_IN_WORDS[ref.kind], problem=problem) from error
        case inline:
            return decode_inline(inline, max_bytes=MAX_BYTES, kind=ref.kind, param=ref.param)
