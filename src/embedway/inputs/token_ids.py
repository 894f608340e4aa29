"""A client's own token ids → int32 ids: the vocabulary, the model's limit, truncation at either end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from embedway.errors import ContextLengthExceeded, InvalidTokenId

Ids = npt.NDArray[np.int32]


def check_token_ids(
    ids: list[int],
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
    head = len(leading) if ids[: len(leading)] == list(leading) else 0
    tail = len(trailing) if ids[len(ids) - len(trailing) :] == list(trailing) else 0
    room = max(0, max_length - head - tail)
    first = len(ids) - tail - room if truncate == "start" else head
    places = [*range(head), *range(first, first + room), *range(len(ids) - tail, len(ids))]
    return _inside_vocabulary([ids[j] for j in places], places, param, vocab_size)


def _inside_vocabulary(ids: list[int], places: Sequence[int], param: str, vocab_size: int) -> Ids:
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
