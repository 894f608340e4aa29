"""Made-up photographs: smooth colours, edges and grain, so that their JPEGs are as large and slow as real ones."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

WIDTH, HEIGHT = 500, 375
"""ImageNet's average"""
QUALITY = 90


def photo(seed: int, width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    image = coarse.resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(30):
        x, y, size, *color = rng.integers([0, 0, 10, 0, 0, 0], [width, height, 120, 256, 256, 256]).tolist()
        draw.ellipse((x, y, x + size, y + size), fill=tuple(color))
    grain = rng.normal(0, 6, (height, width, 3))
    pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(1)), dtype=np.float32) + grain
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
