"""Our pixels against those of transformers' Pillow-backed processors: the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from embedway.media.pixels import num_tokens, resized, target_size, target_size_of_all
from embedway.media.refusal import MediaRefused
from embedway.model_spec import PixelSpec
from encoded_media import CLIP, QWEN2, SIGLIP, SIGLIP2, noise, pixel_spec

ON_PIXELS = {"do_rescale": False, "do_normalize": False}
SIDES = st.integers(min_value=1, max_value=700)
FILTERS = (0, 1, 2, 3)


def ours(spec: PixelSpec, pixels: np.ndarray) -> np.ndarray:
    """uint8 [height, width, 3]"""
    image = Image.fromarray(pixels)
    return resized(image, target_size(spec, pixels.shape[:2]), spec)


def theirs(processor: Any, pixels: np.ndarray, **options: Any) -> np.ndarray:
    """uint8 [height, width, 3]"""
    made = processor(Image.fromarray(pixels), **ON_PIXELS, **options)
    return np.moveaxis(made["pixel_values"][0], 0, -1)


def patches(pixels: np.ndarray, patch_size: int) -> np.ndarray:
    """uint8 [height / patch * width / patch, patch * patch * 3]"""
    height, width, _ = pixels.shape
    blocks = pixels.reshape(height // patch_size, patch_size, width // patch_size, patch_size, 3)
    return blocks.transpose(0, 2, 1, 3, 4).reshape(-1, patch_size * patch_size * 3)


def merged_patches(pixels: np.ndarray, patch_size: int, merge_size: int) -> np.ndarray:
    """As Qwen-VL's tower reads them: the patches of one token side by side, each twice over in time."""
    height, width, _ = pixels.shape
    side = patch_size * merge_size
    blocks = pixels.reshape(height // side, merge_size, patch_size, width // side, merge_size, patch_size, 3)
    ordered = blocks.transpose(0, 3, 1, 4, 6, 2, 5)[:, :, :, :, :, None]
    return np.repeat(ordered, 2, axis=5).reshape(-1, 3 * 2 * patch_size * patch_size)


@settings(max_examples=40)
@given(height=SIDES, width=SIDES, resample=st.sampled_from(FILTERS))
def test_clip_pixels_are_transformers_own(height: int, width: int, resample: int) -> None:
    pixels = noise(height, width)
    if max(height, width) > 20 * min(height, width):
        return  # a strip of gigabytes
    spec = pixel_spec("shortest_edge", height=64, crop=(64, 64), patch_size=32, resample=resample)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}, resample=resample
    )
    assert np.array_equal(ours(spec, pixels), theirs(processor, pixels))


@settings(max_examples=30)
@given(height=SIDES, width=SIDES, crop=st.tuples(st.integers(1, 300), st.integers(1, 300)))
def test_a_crop_larger_than_the_image_has_transformers_own_black_margins(
    height: int, width: int, crop: tuple[int, int]
) -> None:
    pixels = noise(height, width)
    processor = CLIPImageProcessorPil(do_resize=False, crop_size={"height": crop[0], "width": crop[1]})
    assert np.array_equal(ours(pixel_spec("none", crop=crop), pixels), theirs(processor, pixels))


@settings(max_examples=30)
@given(height=SIDES, width=SIDES, resample=st.sampled_from(FILTERS))
def test_siglip_pixels_are_transformers_own(height: int, width: int, resample: int) -> None:
    pixels = noise(height, width)
    spec = pixel_spec("exact", height=96, width=80, resample=resample)
    processor = SiglipImageProcessorPil(size={"height": 96, "width": 80}, resample=resample)
    assert np.array_equal(ours(spec, pixels), theirs(processor, pixels))


@settings(max_examples=40)
@given(height=SIDES, width=SIDES, budget=st.integers(1, 300))
def test_siglip2_pixels_are_transformers_own(height: int, width: int, budget: int) -> None:
    pixels = noise(height, width)
    spec = pixel_spec("patch_budget", max_patches=budget, resample=2)
    made = Siglip2ImageProcessorPil(max_num_patches=budget)(Image.fromarray(pixels), **ON_PIXELS)
    mine = patches(ours(spec, pixels), spec.patch_size)
    assert np.array_equal(mine, np.asarray(made["pixel_values"][0])[: len(mine)])
    assert (
        len(mine) == np.asarray(made["pixel_attention_mask"][0]).sum() == num_tokens(spec, ours(spec, pixels).shape[:2])
    )


@settings(max_examples=40)
@given(height=SIDES, width=SIDES, most=st.integers(4, 400))
def test_qwen2_pixels_are_transformers_own(height: int, width: int, most: int) -> None:
    pixels = noise(height, width)
    sizes = {"min_pixels": 56 * 56, "max_pixels": most * 28 * 28}
    spec = pixel_spec("smart", patch_size=14, merge_size=2, temporal_patch_size=2, **sizes)
    processor = Qwen2VLImageProcessorPil(**sizes)
    if max(height, width) > 200 * min(height, width):
        with pytest.raises(MediaRefused, match="200 times"):
            target_size(spec, (height, width))
        return
    made = processor(Image.fromarray(pixels), **ON_PIXELS)
    mine = ours(spec, pixels)
    assert np.array_equal(merged_patches(mine, 14, 2), np.asarray(made["pixel_values"]))
    assert num_tokens(spec, mine.shape[:2]) == np.prod(made["image_grid_thw"][0]) // 4


@pytest.mark.parametrize(
    ("size", "spec", "processor"),
    [
        ((480, 640), CLIP, CLIPImageProcessorPil()),
        ((1200, 300), CLIP, CLIPImageProcessorPil()),
        ((480, 640), SIGLIP, SiglipImageProcessorPil()),
    ],
)
def test_the_usual_sizes_give_the_same_bits(size: tuple[int, int], spec: PixelSpec, processor: Any) -> None:
    pixels = noise(*size)
    assert np.array_equal(ours(spec, pixels), theirs(processor, pixels))


@pytest.mark.parametrize(
    ("spec", "size", "num_frames", "tokens"),
    [
        (CLIP, (300, 224), 1, 50),
        (CLIP, (300, 224), 3, 150),
        (SIGLIP, (224, 224), 1, 196),
        (SIGLIP2, (256, 256), 1, 256),
        (QWEN2, (56, 84), 1, 6),
        (QWEN2, (56, 84), 3, 12),
    ],
)
def test_tokens_are_counted_as_the_model_reads_them(
    spec: PixelSpec, size: tuple[int, int], num_frames: int, tokens: int
) -> None:
    assert num_tokens(spec, size, num_frames) == tokens


def qwen3_size(frames: int, height: int, width: int, least: int, most: int) -> tuple[int, int]:
    """By transformers' own function."""
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize

    return smart_resize(frames, height, width, temporal_factor=2, factor=32, min_pixels=least, max_pixels=most)


@settings(max_examples=100)
@given(height=SIDES, width=SIDES, frames=st.integers(2, 800), most=st.integers(200, 30_000))
def test_a_budget_of_all_frames_gives_qwen3s_sizes(height: int, width: int, frames: int, most: int) -> None:
    least, most = 128 * 32 * 32, most * 32 * 32
    spec = pixel_spec("smart", patch_size=16, merge_size=2, temporal_patch_size=2, min_pixels=least, max_pixels=most)
    if max(height, width) > 100 * min(height, width):
        return
    assert target_size_of_all(spec, (height, width), frames) == qwen3_size(frames, height, width, least, most)


def test_a_lone_frame_has_the_size_of_two() -> None:
    spec = pixel_spec("smart", merge_size=2, temporal_patch_size=2, min_pixels=1024, max_pixels=64 * 1024)
    assert target_size_of_all(spec, (480, 640), 1) == target_size_of_all(spec, (480, 640), 2)
