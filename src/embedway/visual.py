"""Images and videos: as a request names them (MediaRef), and as a model reads them (Visual).

A MediaRef is made by `inputs`; a Visual is made of it by `media`, carried by `engine` and looked into by `models`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

MediaKind: TypeAlias = Literal["image", "video"]

KIND_IN_WORDS: dict[MediaKind, str] = {"image": "an image", "video": "a video"}
"""For the sentences of errors"""

VISUAL_TOKEN = -1
"""Stands in a sequence's token ids for each position of a visual, where the model has no token of its own for it."""


@dataclass(slots=True)
class MediaRef:
    """An image or a video that nobody has looked at yet."""

    kind: MediaKind
    given: str
    """A URL, a path, a data URI or base64; who takes it may leave "" here"""
    param: str
    """Its name in error messages"""


@dataclass(frozen=True, slots=True, eq=False)
class Visual:
    """An image or a video: decoded, resized and cropped as the model's `PixelSpec` says, not yet normalised."""

    kind: MediaKind
    pixels: npt.NDArray[np.uint8]
    """uint8 [frames, height, width, 3], RGB; an image is one frame"""
    num_tokens: int
    """Positions that it takes in its sequence, all frames together"""
    timestamps: tuple[float, ...] = ()
    """Seconds from a video's start to each frame; empty for an image"""

    @property
    def num_bytes(self) -> int:
        return self.pixels.nbytes


def moved(
    visuals: Mapping[int, tuple[Visual, ...]], start: int, stop: int, first: int
) -> Iterator[tuple[int, tuple[Visual, ...]]]:
    """Those of sequences `start … stop - 1`, which are now `first` and those after it."""
    return ((first + i - start, visuals[i]) for i in range(start, stop) if i in visuals)
