"""A client's own token ids → int32 ids: the vocabulary, the model's limit, truncation at either end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

from embedway.errors import ContextLengthExceeded, InvalidTokenId

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class ArrayOfIds(Sequence[int]):
    """A client's list of token ids as an array, or as its two ends where it is longer than anything looks at."""

    array: npt.NDArray[Any]
    """int64, uint64, or objects where they fit neither; `head + tail`"""
    length: int
    """Of the client's list"""

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> list[int]: ...
    def __getitem__(self, place: int | slice) -> int | list[int]:
        if isinstance(place, slice):
            return [self[j] for j in range(*place.indices(self.length))]
        if not 0 <= place < self.length:
            raise IndexError(place)
        left_out = self.length - len(self.array)
        head = len(self.array) if not left_out else len(self.array) // 2
        assert not head <= place < head + left_out, "what was left out is looked at"
        return int(self.array[place if place < head else place - left_out])

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        del copy  # an array of another type always is one
        assert len(self.array) == self.length, "what was left out is looked at"
        return self.array.astype(dtype or self.array.dtype)


def check_token_ids(
    ids: Sequence[int],
    *,
    param: str,
    vocab_size: int,
    max_length: int,
    truncate: Literal["none", "end", "start"],
    leading: Sequence[int] | Ids = (),
    trailing: Sequence[int] | Ids = (),
) -> Ids:
    """Return a client's own token ids as int32, as they are: nothing is added.

    Too many are cut at their end or start; where they begin with `leading` or end with `trailing` (the special tokens
    of `TextTokenizer`), those stay, as they do for a text. What is cut off is not looked at. Raises
    ContextLengthExceeded where `truncate` is "none", and InvalidTokenId (named `param[j]`) for ids outside 0 to
    `vocab_size - 1`.
    """
    if len(ids) <= max_length:
        return _inside_vocabulary(ids, range(len(ids)), param, vocab_size)
    if truncate == "none":
        raise ContextLengthExceeded(param=param, length=len(ids), limit=max_length, included="special tokens")
    head = len(leading) if list(ids[: len(leading)]) == list(leading) else 0
    tail = len(trailing) if list(ids[len(ids) - len(trailing) :]) == list(trailing) else 0
    room = max(0, max_length - head - tail)
    first = len(ids) - tail - room if truncate == "start" else head
    places = [*range(head), *range(first, first + room), *range(len(ids) - tail, len(ids))]
    return _inside_vocabulary([ids[j] for j in places], places, param, vocab_size)


def _inside_vocabulary(ids: Sequence[int], places: Sequence[int], param: str, vocab_size: int) -> Ids:
    """`places` are those of the ids in the client's list."""
    try:
        array = np.array(ids, np.int64)
    except OverflowError:
        wrong = next(j for j, token_id in enumerate(ids) if not 0 <= token_id < vocab_size)
    else:
        outside = (array < 0) | (array >= vocab_size)
        if not outside.any():
            return array.astype(np.int32)
        wrong = int(outside.argmax())
    raise InvalidTokenId(param=f"{param}[{places[wrong]}]", token_id=ids[wrong], largest=vocab_size - 1)
