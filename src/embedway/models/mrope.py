"""M-RoPE: the three positions (time, height, width) of each token of a packed batch of the Qwen-VL models.

A text's tokens count on in all three. A visual's tokens begin where the text before it ends, and count its grid's rows
and columns; the text behind it goes on after the grid's longer side. This is transformers' `get_rope_index`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from embedway.models.attention import token_positions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from embedway.model_spec import ChatSpec, PixelSpec
    from embedway.models.interface import PackedBatch
    from embedway.visual import Visual

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TokenGrid:
    """Tokens that stand side by side in a sequence: a visual, or one step of a video."""

    times: npt.NDArray[np.int64]
    """int64 [steps]: the position in time of each step, from 0"""
    height: int
    """In tokens"""
    width: int

    @property
    def num_tokens(self) -> int:
        return len(self.times) * self.height * self.width

    def positions(self, first: int) -> Positions:
        """int64 [3, num_tokens]"""
        axes = (self.times, np.arange(self.height), np.arange(self.width))
        return np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1) + first


@dataclass(frozen=True, slots=True)
class RotaryPositions:
    """Counts one model's positions."""

    pixels: PixelSpec
    """Of images or videos: they have the same patches"""
    chat: ChatSpec
    tokens_per_second: float | None
    """How far a video's second counts (Qwen2.5-VL); None: a step counts 1"""

    def of_batch(self, batch: PackedBatch) -> Positions:
        """int64 [total, 3], anew in each sequence"""
        positions = np.repeat(token_positions(batch.cu_seqlens)[:, None], 3, axis=1)
        for i, visuals in batch.visuals.items():
            rows = slice(batch.cu_seqlens[i], batch.cu_seqlens[i + 1])
            positions[rows] = self.of_sequence(batch.token_ids[rows], visuals).T
        return positions

    def of_sequence(self, token_ids: npt.NDArray[np.int32], visuals: Sequence[Visual]) -> Positions:
        """int64 [3, length]"""
        parts: list[Positions] = []
        row = position = 0
        places = np.flatnonzero(is_visual(token_ids, self.chat))
        num_seen = 0
        for grid in (grid for visual in visuals for grid in self.grids(visual)):
            first = int(places[num_seen])
            parts.append(text_positions(position, first - row))
            position += first - row
            parts.append(grid.positions(position))
            position += max(grid.height, grid.width)
            row, num_seen = first + grid.num_tokens, num_seen + grid.num_tokens
        return np.concatenate([*parts, text_positions(position, len(token_ids) - row)], axis=1)

    def grids(self, visual: Visual) -> Iterator[TokenGrid]:
        """Qwen3-VL's videos have a timestamp before each step, so there each step is a grid of its own."""
        frames, height, width = visual.pixels.shape[:3]
        token = self.pixels.patch_size * self.pixels.merge_size
        num_steps = -(-frames // self.pixels.temporal_patch_size)
        if self.chat.has_timestamps:
            for _ in range(num_steps):
                yield TokenGrid(np.zeros(1, np.int64), height // token, width // token)
        else:
            yield TokenGrid(self.step_times(visual, num_steps), height // token, width // token)

    def step_times(self, visual: Visual, num_steps: int) -> npt.NDArray[np.int64]:
        steps = np.arange(num_steps, dtype=np.float32)  # its rounding down is part of the definition
        if visual.kind == "image" or self.tokens_per_second is None:
            return steps.astype(np.int64)
        seconds = self.pixels.temporal_patch_size * seconds_per_frame(visual)
        return (steps * np.float32(self.tokens_per_second * seconds)).astype(np.int64)


def is_visual(token_ids: npt.NDArray[np.int32], chat: ChatSpec) -> npt.NDArray[np.bool_]:
    """bool [total]: which tokens stand for a part of an image or a video"""
    return (token_ids == chat.image_token_id) | (token_ids == chat.video_token_id)


def seconds_per_frame(visual: Visual) -> float:
    times = visual.timestamps
    # rounded: half a second must not come out as a little less, which would count one position fewer
    return round((times[-1] - times[0]) / (len(times) - 1), 6) if len(times) > 1 else 1.0


def text_positions(first: int, count: int) -> Positions:
    """int64 [3, count]"""
    return np.broadcast_to(np.arange(first, first + count), (3, count))
