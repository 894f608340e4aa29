"""The parts of a rendered prompt: words to tokenize, special tokens by id, and places for what an item brings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from embedway.inputs.chat_template import INSTRUCTION_MARK, TEXT_MARK

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tokenizers import Tokenizer

    from embedway.inputs.tokenizer import Ids
    from embedway.model_spec import ChatSpec
    from embedway.visual import Visual


class Hole(Enum):
    """A place that is filled for each item."""

    TEXT = TEXT_MARK
    INSTRUCTION = INSTRUCTION_MARK
    IMAGE = "image"
    VIDEO = "video"


TemplatePart: TypeAlias = "str | int | Hole"
"""Words, a special token, or a hole"""
Part: TypeAlias = "str | Ids | Hole"
"""Words, special tokens, or the hole of the text: the only one that is left"""


@dataclass(frozen=True, slots=True)
class PromptReader:
    """Takes prompts of one model apart."""

    chat: ChatSpec
    pattern: re.Pattern[str]
    """Finds marks and added tokens: the pattern's one group"""
    token_ids: dict[str, int]

    @classmethod
    def of(cls, chat: ChatSpec, tokenizer: Tokenizer) -> PromptReader:
        added = {token.content: token_id for token_id, token in tokenizer.get_added_tokens_decoder().items()}
        longest_first = sorted([*added, TEXT_MARK, INSTRUCTION_MARK], key=len, reverse=True)
        return cls(chat, re.compile("(" + "|".join(map(re.escape, longest_first)) + ")"), added)

    def read(self, prompt: str) -> tuple[TemplatePart, ...]:
        parts = [self._part(found) for found in self.pattern.split(prompt) if found]
        return tuple(self._without_frames(parts) if self.chat.has_timestamps else parts)

    def _part(self, found: str) -> TemplatePart:
        if found in (TEXT_MARK, INSTRUCTION_MARK):
            return Hole(found)
        token_id = self.token_ids.get(found)
        holes = {self.chat.image_token_id: Hole.IMAGE, self.chat.video_token_id: Hole.VIDEO}
        return found if token_id is None else holes.get(token_id, token_id)

    def _without_frames(self, parts: Sequence[TemplatePart]) -> Iterator[TemplatePart]:
        """Each step of a video has start and end of its own, so those that the template writes around it are dropped.

        Qwen3-VL was trained so; the processor of transformers 5.23 leaves them, that of 4.57 did not.
        """
        for i, part in enumerate(parts):
            opens = part == self.chat.vision_start_token_id and parts[i + 1 : i + 2] == [Hole.VIDEO]
            closes = part == self.chat.vision_end_token_id and parts[max(0, i - 1) : i] == [Hole.VIDEO]
            if not (opens or closes):
                yield part


def visual_parts(visual: Visual, chat: ChatSpec, frames_per_step: int) -> Iterator[str | Ids]:
    """The tokens that a visual takes, with the time of each step before it where the model reads that."""
    if visual.kind == "image":
        yield np.full(visual.num_tokens, chat.image_token_id, np.int32)
    elif not chat.has_timestamps:
        yield np.full(visual.num_tokens, chat.video_token_id, np.int32)
    else:
        times = step_times(visual.timestamps, frames_per_step)
        pads = [chat.video_token_id] * (visual.num_tokens // len(times))
        for time in times:
            yield f"<{time:.1f} seconds>"
            yield np.array([chat.vision_start_token_id, *pads, chat.vision_end_token_id], np.int32)


def step_times(timestamps: Sequence[float], frames_per_step: int) -> list[float]:
    """Half way between the first and the last frame of each step; the last frame fills the last step."""
    starts = range(0, len(timestamps), frames_per_step)
    last = len(timestamps) - 1
    return [(timestamps[i] + timestamps[min(i + frames_per_step - 1, last)]) / 2 for i in starts]


def fill(
    parts: Iterable[TemplatePart], instruction: str, visuals: Sequence[Visual], chat: ChatSpec, frames_per_step: int
) -> list[Part]:
    """Fill all holes but the text's. Words that touch become one part, since a token may lie across their border."""
    waiting = iter(visuals)
    filled: list[Part] = []
    for part in parts:
        if part in (Hole.IMAGE, Hole.VIDEO):
            filled += visual_parts(next(waiting), chat, frames_per_step)
        elif isinstance(part, int):
            filled.append(np.array([part], np.int32))
        else:
            filled.append(instruction if part is Hole.INSTRUCTION else part)
    return joined_words(filled)


def joined_words(parts: Iterable[Part]) -> list[Part]:
    result: list[Part] = []
    for part in parts:
        if isinstance(part, str) and result and isinstance(result[-1], str):
            result[-1] += part
        else:
            result.append(part)
    return result
