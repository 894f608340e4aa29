"""A text inside a prompt: its tokens between those of a template, which stays whole however the text is cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedway.errors import ContextLengthExceeded
from embedway.inputs.request_budget import UNLIMITED, RequestBudget
from embedway.inputs.tokenizer import LONG_TEXT, Cut, text_batches
from embedway.inputs.truncation import TextEnd

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from embedway.inputs.tokenizer import Ids, TextTokenizer, Truncate


@dataclass(frozen=True, slots=True)
class TextPlace:
    """Where a text stands. `before` and `after` touch it, so that tokens may lie across their borders."""

    tokenizer: TextTokenizer
    leading: Ids
    before: str
    after: str
    trailing: Ids
    before_ids: Ids
    """The tokens of `before` alone"""
    after_ids: Ids

    @property
    def num_fixed(self) -> int:
        """Tokens without the text"""
        return len(self.leading) + len(self.before_ids) + len(self.after_ids) + len(self.trailing)

    def encode(
        self,
        texts: Sequence[str],
        *,
        truncate: Truncate,
        max_length: int,
        param: Callable[[int], str],
        budget: RequestBudget | None = None,
    ) -> list[Ids]:
        """Return the int32 ids of the prompt with each text, at most `max_length` of them: only the text is cut.

        Raises ContextLengthExceeded also where there is no room for a text, and what TextTokenizer.encode raises.
        """
        budget = budget or RequestBudget(param(0), max_tokens=UNLIMITED)
        if self.num_fixed >= max_length:
            raise too_long(param(0), f"at least {self.num_fixed + 1}", max_length)
        sequences: list[Ids] = []
        num_tokens = 0
        for first, stop in text_batches(list(map(len, texts)), longest=LONG_TEXT * max_length):
            if len(texts[first]) > LONG_TEXT * max_length:
                made = [self._encode_long(texts[first], truncate, max_length, param(first), budget)]
            else:
                budget.read(sum(map(len, texts[first:stop])))
                whole = self.tokenizer.encode_whole(
                    [self.before + text + self.after for text in texts[first:stop]],
                    add_special_tokens=False,
                    param=lambda i, first=first: param(first + i),
                )
                made = [self._fit(ids, truncate, max_length, param(i)) for i, ids in enumerate(whole, first)]
            num_tokens += sum(map(len, made))
            budget.check_tokens(num_tokens, is_all=stop == len(texts))
            sequences += made
        self.tokenizer.check_embeddings(sequences, param)
        return sequences

    def _fit(self, ids: Ids, truncate: Truncate, max_length: int, param: str) -> Ids:
        """`ids` are those of before + text + after."""
        if len(self.leading) + len(ids) + len(self.trailing) <= max_length:
            return np.concatenate([self.leading, ids, self.trailing])
        head = num_equal(ids, self.before_ids)
        tail = num_equal(ids[head:][::-1], self.after_ids[::-1])
        leading, trailing = [*self.leading, *ids[:head]], [*ids[len(ids) - tail :], *self.trailing]
        cut = Cut(truncate, max_length, np.array(leading, np.int32), np.array(trailing, np.int32), has_prompt=True)
        return cut.content(TextEnd(ids[head : len(ids) - tail].tolist(), is_all=True), param)

    def _encode_long(self, text: str, truncate: Truncate, max_length: int, param: str, budget: RequestBudget) -> Ids:
        """Only the end that is kept is read, beside the part of the prompt that touches it."""
        leading, before, text, trailing = self.leading, self.before, text, self.trailing
        if truncate == "start":
            leading, before, text = np.concatenate([leading, self.before_ids]), "", text + self.after
        else:
            trailing = np.concatenate([self.after_ids, trailing])
        cut = Cut(truncate, max_length, leading, trailing, has_prompt=True)
        return self.tokenizer.encode_long(before, text, cut, param, budget)


def num_equal(ids: Ids, others: Ids) -> int:
    """How many ids are the same from the first on"""
    length = min(len(ids), len(others))
    different = np.flatnonzero(ids[:length] != others[:length])
    return int(different[0]) if len(different) else length


def too_long(param: str, length: int | str, limit: int) -> ContextLengthExceeded:
    """Of a prompt that no truncation makes fit"""
    included = "the model's chat template, images and videos, which are never cut,"
    return ContextLengthExceeded(param=param, length=length, limit=limit, included=included)
