"""Images of every mode, as transformers' `load_image` gives them to its processors, and files that are no images."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
import zlib
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image
from transformers.image_utils import load_image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from embedway.media.images import decode_image
from embedway.media.refusal import MediaRefused
from encoded_media import CLIP, LIMITS, counting_frames, noise, pixel_spec, png, saved, video

AS_IT_IS = pixel_spec("none")
RGB, RGBA = Image.fromarray(noise(40, 60)), Image.fromarray(noise(40, 60, channels=4))
GREY16 = Image.fromarray(noise(40, 60)[:, :, 0].astype(np.uint16) * 257)
PALETTE = RGB.quantize(16)
ORIENTATION = 0x0112


def rotated(orientation: int, format: str) -> bytes:  # noqa: A002 - Pillow's own name
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return saved(RGB, format, exif=exif)


FILES = {
    "jpeg": saved(RGB, "JPEG"),
    "grey jpeg": saved(RGB.convert("L"), "JPEG"),
    "cmyk jpeg": saved(RGB.convert("CMYK"), "JPEG"),
    "progressive jpeg": saved(RGB, "JPEG", progressive=True),
    "png": saved(RGB, "PNG"),
    "png with alpha": saved(RGBA, "PNG"),
    "grey png with alpha": saved(RGBA.convert("LA"), "PNG"),
    "png with a palette": saved(PALETTE, "PNG"),
    "png with a transparent colour of its palette": saved(PALETTE, "PNG", transparency=3),
    "png with a transparent colour": saved(RGB, "PNG", transparency=(1, 2, 3)),
    "1-bit png": saved(RGB.convert("1"), "PNG"),
    "16-bit grey png": saved(GREY16, "PNG"),
    "webp": saved(RGB, "WEBP"),
    "lossless webp with alpha": saved(RGBA, "WEBP", lossless=True),
    "gif": saved(PALETTE, "GIF"),
    "gif with a transparent colour": saved(PALETTE, "GIF", transparency=2),
    "animated gif": saved(PALETTE, "GIF", save_all=True, append_images=[RGB.rotate(90).quantize(16)]),
    "animated webp": saved(RGB, "WEBP", save_all=True, append_images=[RGB.rotate(90)]),
    "bmp": saved(RGB, "BMP"),
    "tiff": saved(RGB, "TIFF"),
    "compressed tiff": saved(RGB, "TIFF", compression="tiff_lzw"),
    "cmyk tiff": saved(RGB.convert("CMYK"), "TIFF"),
    "float tiff": saved(RGB.convert("F"), "TIFF"),
    "16-bit tiff": saved(GREY16, "TIFF"),
    **{f"jpeg turned by EXIF {number}": rotated(number, "JPEG") for number in range(1, 9)},
    "png turned by EXIF": rotated(6, "PNG"),
    "webp turned by EXIF": rotated(8, "WEBP"),
    "trailing garbage": saved(RGB, "PNG") + b"<script>" * 100,
}


@pytest.mark.parametrize("name", FILES)
def test_every_mode_is_read_as_transformers_reads_it(name: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(FILES[name])
    with Image.open(path) as opened:
        expected = np.asarray(load_image(opened))
    visual = decode_image(FILES[name], AS_IT_IS, LIMITS)
    assert np.array_equal(visual.pixels, expected[np.newaxis])
    assert (visual.kind, visual.timestamps) == ("image", ())


def test_a_file_gives_the_pixels_of_the_processor(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(rotated(6, "JPEG"))
    made = CLIPImageProcessorPil()(
        CLIPImageProcessorPil().fetch_images(str(path)), do_rescale=False, do_normalize=False
    )
    visual = decode_image(path.read_bytes(), CLIP, LIMITS)
    assert np.array_equal(visual.pixels[0], np.moveaxis(made["pixel_values"][0], 0, -1))
    assert visual.num_tokens == 50


def test_a_polyglot_is_what_its_beginning_is() -> None:
    archive = io.BytesIO(FILES["gif"])
    with zipfile.ZipFile(archive, "a") as appended:
        appended.writestr("evil.txt", "x" * 100)
    visual = decode_image(archive.getvalue(), AS_IT_IS, LIMITS)
    assert np.array_equal(visual.pixels, decode_image(FILES["gif"], AS_IT_IS, LIMITS).pixels)


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header claims a size, with next to no data."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "not a JPEG, PNG"),
        (b"hello, world", "not a JPEG, PNG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg' width='1' height='1'/>", "not a JPEG, PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not a JPEG, PNG"),
        (b"%PDF-1.4\n", "not a JPEG, PNG"),
        (b"P6 1 1 255 abc", "not a JPEG, PNG"),
        (saved(RGB, "ICO"), "not a JPEG, PNG"),
        (saved(RGB, "JPEG2000"), "not a JPEG, PNG"),
        (FILES["jpeg"][:3], "not a JPEG, PNG"),
        (FILES["jpeg"][: len(FILES["jpeg"]) // 2], "broken"),
        (FILES["png"][: len(FILES["png"]) // 2], "broken"),
        (FILES["webp"][: len(FILES["webp"]) // 2], "JPEG|broken"),
        (FILES["gif"][: len(FILES["gif"]) // 2], "broken"),
        (FILES["tiff"][: len(FILES["tiff"]) // 2], "broken"),
        (FILES["bmp"][: len(FILES["bmp"]) // 2], "broken"),
        (png_of_size(0, 10), "no pixels|broken|JPEG"),
        (video(counting_frames(3)), "send it as 'video'"),
    ],
)
def test_what_is_no_whole_image_is_refused_in_words(data: bytes, problem: str) -> None:
    with pytest.raises(MediaRefused, match=problem) as refused:
        decode_image(data, AS_IT_IS, LIMITS)
    assert not refused.value.refusal.limit
    assert "0x" not in refused.value.refusal.problem


def test_a_bomb_is_refused_by_its_header() -> None:
    with pytest.raises(MediaRefused, match="100000 x 100000 pixels") as refused:
        decode_image(png_of_size(100_000, 100_000), AS_IT_IS, LIMITS)
    assert refused.value.refusal.flag == "--max-image-pixels"


def test_exactly_the_most_pixels_are_read() -> None:
    limits = msgspec.structs.replace(LIMITS, max_image_pixels=48 * 64)
    assert decode_image(png(48, 64), AS_IT_IS, limits).pixels.shape == (1, 48, 64, 3)
    with pytest.raises(MediaRefused, match="64 x 49 pixels"):
        decode_image(png(49, 64), AS_IT_IS, limits)


def test_the_limit_is_ours_alone() -> None:
    """Pillow has one of its own, which warns, and raises at twice that many pixels."""
    limits = msgspec.structs.replace(LIMITS, max_image_pixels=400_000_000)
    data = saved(Image.new("1", (20_000, 10_000)), "PNG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_image(data, CLIP, limits).pixels.shape == (1, 224, 224, 3)


def test_a_strip_that_would_become_gigabytes_is_refused() -> None:
    with pytest.raises(MediaRefused, match="224 x 22400000 pixels once it is resized") as refused:
        decode_image(png(100_000, 1), CLIP, LIMITS)
    assert refused.value.refusal.flag == "--max-image-pixels"


def test_more_tokens_than_a_sequence_holds_are_refused() -> None:
    limits = msgspec.structs.replace(LIMITS, max_tokens=49)
    with pytest.raises(MediaRefused, match="takes 50 tokens"):
        decode_image(png(), CLIP, limits)
