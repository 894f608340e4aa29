"""Texts → token ids: the special tokens that the checkpoint declares, its limit, truncation at either end."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, normalizers

from embedway.errors import ContextLengthExceeded, InvalidValue, TooManyCharacters, UnsupportedCheckpoint
from embedway.inputs.fast_wordpiece import FastWordPiece
from embedway.inputs.request_budget import UNLIMITED, RequestBudget
from embedway.inputs.special_tokens import declared_post_processor
from embedway.inputs.truncation import (
    CHARACTERS_PER_TOKEN,
    GROWTH,
    Seams,
    TextEnd,
    first_characters,
    last_characters,
    leading_ids,
    trailing_ids,
)
from embedway.model_spec import ModelSpec

Ids = npt.NDArray[np.int32]
Truncate = Literal["none", "end", "start"]

LONG_TEXT = 2 * CHARACTERS_PER_TOKEN
"""Texts of more characters per token of the limit are read piece by piece, unless there is a faster tokenizer; shorter
ones are tokenized whole."""
MAX_ITEM_CHARACTERS = 1_000_000
"""A longer text must have enough tokens within so many characters."""
BATCH_CHARACTERS = 65_536
"""Short texts are tokenized together up to this size: the library's own objects take some 50 bytes a character."""
_SURROGATE = re.compile("[\ud800-\udfff]")


def max_item_characters(max_length: int) -> int:
    """Most characters that are tokenized of one item; models that read very long items may read more."""
    return max(MAX_ITEM_CHARACTERS, GROWTH * LONG_TEXT * max_length)


@dataclass(frozen=True, slots=True)
class TextTokenizer:
    """One model's tokenizer. Safe to share between threads; the batched calls release the GIL."""

    tokenizer: Tokenizer
    leading: Ids
    """Special tokens put before each text, e.g. [CLS]"""
    trailing: Ids
    """Special tokens put after each text, e.g. [SEP] or an EOS"""
    special_ids: frozenset[int]
    vocab_size: int
    has_ids_beyond: bool
    """True: some text gives an id that the model has no embedding for (an added token without a row)."""
    seams: Seams
    fast: FastWordPiece | None = None
    """The same tokenizer, where there is a faster one of its kind"""

    @classmethod
    def load(cls, spec: ModelSpec) -> TextTokenizer:
        """Read `tokenizer.json` and `tokenizer_config.json` of `spec.tokenizer_folder`.

        Truncation and padding that `tokenizer.json` may declare are switched off: they are a trainer's leftovers
        (all-MiniLM-L6-v2: 128). Raises UnsupportedCheckpoint where a file is missing or cannot be read.
        """
        folder = Path(spec.tokenizer_folder)
        tokenizer = _read_tokenizer(folder / "tokenizer.json", spec)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        if spec.vision is not None and spec.vision.chat is not None:
            # the prompt's own special tokens are looked up one by one: what a user types of them is plain text
            tokenizer.encode_special_tokens = True
        declared_post_processor(tokenizer, _read_config(folder / "tokenizer_config.json", spec))
        if spec.lowercase:
            _lowercase_first(tokenizer)
        leading, trailing = _added_around(tokenizer)
        return cls(
            tokenizer=tokenizer,
            leading=leading,
            trailing=trailing,
            special_ids=frozenset(i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special),
            vocab_size=spec.vocab_size,
            has_ids_beyond=max(tokenizer.get_vocab().values(), default=0) >= spec.vocab_size,
            seams=Seams.of(tokenizer),
            fast=FastWordPiece.of(tokenizer),
        )

    def encode(
        self,
        texts: Sequence[str],
        *,
        prompt: str = "",
        truncate: Truncate,
        max_length: int,
        param: Callable[[int], str] = "input[{}]".format,
        budget: RequestBudget | None = None,
    ) -> list[Ids]:
        """Return the int32 ids of each text, special tokens included, at most `max_length` of them.

        `prompt` is put before each text, as sentence-transformers does. A longer text is cut at its end or start, as
        transformers does with `truncation_side` right or left: special tokens stay. `param(i)` names text i in errors.
        Raises ContextLengthExceeded where `truncate` is "none" (a very long text is not counted to its end),
        TooManyCharacters where the tokens of a text of more than a million characters are not found in so many of
        them, InvalidValue for text that is not Unicode or that spells a token without an embedding, and what `budget`
        raises.
        """
        cut = Cut(truncate, max_length, self.leading, self.trailing, has_prompt=bool(prompt))
        budget = budget or RequestBudget(param(0), max_tokens=UNLIMITED)
        lengths = [len(prompt) + len(text) for text in texts]
        sequences: list[Ids] = []
        num_tokens = 0
        longest = self.longest_whole(max_length)
        try:
            for first, stop in text_batches(lengths, longest=longest):
                if lengths[first] > longest:
                    made = [self.encode_long(prompt, texts[first], cut, param(first), budget)]
                else:
                    # what is longer than others read whole counts as what they would read of it: it takes no longer
                    budget.read(sum([min(length, LONG_TEXT * max_length) for length in lengths[first:stop]]))
                    batch = self._encode_batch([prompt + text for text in texts[first:stop]])
                    made = [cut.whole(ids, param(i)) for i, ids in enumerate(batch, first)]
                num_tokens += sum(map(len, made))
                budget.check_tokens(num_tokens, is_all=stop == len(texts))
                sequences += made
        except (TypeError, UnicodeEncodeError):
            _check_unicode(prompt, texts, param)
            raise
        self.check_embeddings(sequences, param)
        return sequences

    def encode_whole(
        self,
        texts: Sequence[str],
        *,
        add_special_tokens: bool = True,
        param: Callable[[int], str] = "input[{}]".format,
    ) -> list[Ids]:
        """Return the int32 ids of each text, however many. Raises InvalidValue for text that is not Unicode."""
        try:
            return [
                ids
                for first, stop in text_batches(list(map(len, texts)), longest=BATCH_CHARACTERS)
                for ids in self._encode_batch(texts[first:stop], add_special_tokens=add_special_tokens)
            ]
        except (TypeError, UnicodeEncodeError):
            _check_unicode("", texts, param)
            raise

    def detokenize(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Return the text of ids, which must be inside the vocabulary."""
        return self.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)

    def _encode_batch(self, texts: Sequence[str], *, add_special_tokens: bool = True) -> list[Ids]:
        if self.fast is not None:
            return self.fast.encode_batch(texts, add_special_tokens)
        encodings = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=add_special_tokens)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def encode_long(self, prompt: str, text: str, cut: Cut, param: str, budget: RequestBudget) -> Ids:
        """`prompt + text` without making that, which may be far longer than what is read of it."""

        def encode(part: str) -> list[int]:
            budget.read(len(part))
            return self._encode_batch([part], add_special_tokens=False)[0].tolist()

        limit = max_item_characters(cut.max_length)
        take, read = (last_characters, trailing_ids) if cut.truncate == "start" else (first_characters, leading_ids)
        part = take(prompt, text, self.longest_read(cut.max_length))
        wanted = cut.room + 1 if cut.truncate == "none" else cut.room
        end = read(part, wanted, encode=encode, seams=self.seams, max_characters=limit)
        if end is None:
            scope = "an item: it has very long words or runs of spaces"
            raise TooManyCharacters(param=param, limit=limit, scope=scope)
        return cut.content(end, param)

    def longest_whole(self, max_length: int) -> int:
        """Characters of a text that is tokenized whole. The faster tokenizer has read it before a seam is found, and
        gives Python's lock away meanwhile."""
        longest = LONG_TEXT * max_length
        return longest if self.fast is None else max(longest, BATCH_CHARACTERS)

    def longest_read(self, max_length: int) -> int:
        """Characters at either end of a text that anything here looks at: what is between them may be missing."""
        return max_item_characters(max_length) + self.seams.reach

    def check_embeddings(self, sequences: Sequence[Ids], param: Callable[[int], str]) -> None:
        """Raises InvalidValue where a text spells a token without an embedding."""
        if not self.has_ids_beyond:
            return
        for i, ids in enumerate(sequences):
            if ids.size and ids.max() >= self.vocab_size:
                token = self.tokenizer.id_to_token(int(ids.max()))
                raise InvalidValue(param=param(i), problem=f"has the token {token!r}, which this model does not know")


@dataclass(frozen=True, slots=True)
class Cut:
    """How sequences get their length."""

    truncate: Truncate
    max_length: int
    leading: Ids
    trailing: Ids
    has_prompt: bool

    @property
    def room(self) -> int:
        """For tokens that are not special."""
        return max(0, self.max_length - len(self.leading) - len(self.trailing))

    def whole(self, ids: Ids, param: str) -> Ids:
        """Of all the tokens of a text, with the special ones."""
        if len(ids) <= self.max_length:
            return ids
        content = ids[len(self.leading) : len(ids) - len(self.trailing)]
        return self.content(TextEnd(content, is_all=True), param)

    def content(self, end: TextEnd, param: str) -> Ids:
        """Of tokens from one end of a text, without the special ones. Raises ContextLengthExceeded."""
        length = len(self.leading) + len(end.ids) + len(self.trailing)
        if self.truncate == "none" and length > self.max_length:
            raise ContextLengthExceeded(
                param=param,
                length=length if end.is_all else f"at least {length}",
                limit=self.max_length,
                included="special tokens and the prompt" if self.has_prompt else "special tokens",
            )
        kept = end.ids[max(0, len(end.ids) - self.room) :] if self.truncate == "start" else end.ids[: self.room]
        return np.concatenate([self.leading, np.array(kept, np.int32), self.trailing])


def text_batches(lengths: list[int], *, longest: int) -> Iterator[tuple[int, int]]:
    """Texts to tokenize together, as (first, stop), in order; a text of more than `longest` characters is alone."""
    first = 0
    while first < len(lengths):
        stop, size = first + 1, lengths[first]
        if size <= longest:
            while stop < len(lengths) and lengths[stop] <= longest and size + lengths[stop] <= BATCH_CHARACTERS:
                size += lengths[stop]
                stop += 1
        yield first, stop
        first = stop


def _check_unicode(prompt: str, texts: Sequence[str], param: Callable[[int], str]) -> None:
    """Raise InvalidValue for a text with a lone surrogate: the tokenizers do not say that it is one, nor which."""
    names = chain(["prompt"], map(param, range(len(texts))))
    for name, text in zip(names, chain([prompt], texts), strict=True):
        if _SURROGATE.search(text):
            raise InvalidValue(param=name, problem="is not Unicode: it has half a surrogate pair")


def _read_tokenizer(path: Path, spec: ModelSpec) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise UnsupportedCheckpoint(folder=spec.folder, problem=f"{path} cannot be read ({error})") from error


def _read_config(path: Path, spec: ModelSpec) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnsupportedCheckpoint(folder=spec.folder, problem=f"{path} cannot be read ({error})") from error


def _lowercase_first(tokenizer: Tokenizer) -> None:
    """`do_lower_case` as sentence-transformers applies it: a normalizer in front, unless there is one already."""
    normalizer = tokenizer.normalizer
    parts = list(normalizer) if isinstance(normalizer, normalizers.Sequence) else [normalizer] if normalizer else []
    if not any(isinstance(part, normalizers.Lowercase) for part in parts):
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *parts])


def _added_around(tokenizer: Tokenizer) -> tuple[Ids, Ids]:
    """The special tokens that the post-processor puts before and after a text."""
    encoding = tokenizer.encode("a")
    mask = encoding.special_tokens_mask
    first = mask.index(0) if 0 in mask else len(mask)
    last = len(mask) - mask[::-1].index(0) if 0 in mask else len(mask)
    return np.array(encoding.ids[:first], np.int32), np.array(encoding.ids[last:], np.int32)
