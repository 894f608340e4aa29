"""An RGB image → the pixels that a model reads: resized and cropped as its PixelSpec says, to the bit as transformers'
Pillow-backed image processors do it. The image stays Pillow's until it has its final size."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from embedway.media.refusal import MediaRefused
from embedway.model_spec import PixelSpec

Size: TypeAlias = tuple[int, int]
"""Height and width"""

MAX_ASPECT_RATIO = 200
"""Qwen-VL's processors refuse images that are longer than this many times their shorter side"""


def resized(image: Image.Image, size: Size, spec: PixelSpec) -> npt.NDArray[np.uint8]:
    """Resize an RGB image to `size` and cut out the centre; uint8 [height, width, 3]."""
    height, width = size
    if image.size != (width, height):
        image = image.resize((width, height), resample=Image.Resampling(spec.resample))
    if spec.crop is not None:
        image = _centre(image, spec.crop)
    return np.asarray(image)


def _centre(image: Image.Image, size: Size) -> Image.Image:
    """The middle of an image, in black where the image is smaller than that."""
    (width, height), (crop_height, crop_width) = image.size, size
    left, top = (width - crop_width) // 2, (height - crop_height) // 2
    return image.crop((left, top, left + crop_width, top + crop_height))


def num_tokens(spec: PixelSpec, size: Size, num_frames: int = 1) -> int:
    """Positions that frames take which were resized to `size`."""
    height, width = size if spec.crop is None else spec.crop
    patches = (height // spec.patch_size) * (width // spec.patch_size) // spec.merge_size**2
    return math.ceil(num_frames / spec.temporal_patch_size) * (patches + spec.class_tokens)


def target_size(spec: PixelSpec, size: Size) -> Size:
    """The size to which an image is resized before it is cropped. Raises MediaRefused."""
    match spec.resize:
        case "none":
            return size
        case "exact":
            return spec.height, spec.width
        case "shortest_edge":
            return _shortest_edge(spec.height, size)
        case "smart":
            return _smart(spec, size, size, num_frames=1, counted_frames=1)
        case "patch_budget":
            return _patch_budget(spec, size)


def target_size_of_all(spec: PixelSpec, size: Size, num_frames: int) -> Size:
    """`target_size` where min_pixels and max_pixels are of all frames together (Qwen3-VL). Raises MediaRefused."""
    num_frames = max(num_frames, spec.temporal_patch_size)  # a lone frame is repeated to fill its patch
    counted = round(num_frames / spec.temporal_patch_size) * spec.temporal_patch_size
    return _smart(spec, size, _at_least_one_token(spec, size), num_frames=num_frames, counted_frames=counted)


def _at_least_one_token(spec: PixelSpec, size: Size) -> Size:
    factor = spec.patch_size * spec.merge_size
    height, width = size
    if height >= factor and width >= factor:
        return size
    scale = max(factor / height, factor / width)
    return int(height * scale), int(width * scale)


def _shortest_edge(edge: int, size: Size) -> Size:
    height, width = size
    longest = int(edge * max(size) / min(size))
    return (longest, edge) if width <= height else (edge, longest)


def _smart(spec: PixelSpec, given: Size, size: Size, *, num_frames: int, counted_frames: int) -> Size:
    """Sides that are multiples of a token's, with an allowed number of pixels, close to the aspect of `size`."""
    height, width = size
    if max(size) > MAX_ASPECT_RATIO * min(size):
        raise MediaRefused(
            f"it is {given[1]} x {given[0]} pixels, and one side may be at most {MAX_ASPECT_RATIO} times the other"
        )
    factor = spec.patch_size * spec.merge_size
    near = round(height / factor) * factor, round(width / factor) * factor
    pixels = counted_frames * near[0] * near[1]
    if pixels > spec.max_pixels:
        shrink = math.sqrt((num_frames * height * width) / spec.max_pixels)
        return (
            max(factor, math.floor(height / shrink / factor) * factor),
            max(factor, math.floor(width / shrink / factor) * factor),
        )
    if pixels < spec.min_pixels:
        grow = math.sqrt(spec.min_pixels / (num_frames * height * width))
        return math.ceil(height * grow / factor) * factor, math.ceil(width * grow / factor) * factor
    return near


def _patch_budget(spec: PixelSpec, size: Size) -> Size:
    """The largest scale whose patches are within the budget, by bisection in the steps of SigLIP2's processor."""
    smallest, largest, precision = 1e-6, 100.0, 1e-5
    while largest - smallest >= precision:
        scale = (smallest + largest) / 2
        height, width = _whole_patches(spec.patch_size, size, scale)
        if (height // spec.patch_size) * (width // spec.patch_size) <= spec.max_patches:
            smallest = scale
        else:
            largest = scale
    return _whole_patches(spec.patch_size, size, smallest)


def _whole_patches(patch_size: int, size: Size, scale: float) -> Size:
    height, width = (max(patch_size, math.ceil(side * scale / patch_size) * patch_size) for side in size)
    return height, width
