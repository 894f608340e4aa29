"""The first or last tokens of a long text, in time that the number of tokens bounds, not the text.

A *seam* is a place where the tokenization of a text surely divides: no token, word or added token lies across it, and
the tokens before it are the same whatever follows. So the tokens of `text[:seam]` are the first tokens of `text`. The
other way round, `text[seam:]` may get a word mark or a space put in front, as every text, so its tokens count from a
second seam on.

Two things prove a seam:

- *A word ends*: the pre-tokenizer divides the neighbourhood here, and the two characters are of kinds that part words
  in every known pre-tokenizer (its regular expressions read from left to right and never past such a place): a letter,
  digit or punctuation before whitespace, a letter before punctuation. BERT also isolates punctuation and ideographs.
- *No token has this pair of characters*: merges (BPE) and the best path (Unigram) build tokens of the vocabulary only,
  so none crosses. This serves tokenizers that hand the model a whole text as one word (Llama, Gemma), and scripts
  without spaces. Backwards it is not used for Unigram, whose sums of scores are rounded differently from another
  start, which decides ties.

Beside that the normalizer must treat both sides alike together and apart, and no added token may touch the place.
Where a text has no seam, all of it is tokenized, up to a limit: slow, but correct. Looking for a seam takes about as
long as tokenizing the characters in question, so the time has a limit, too.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, models

CHARACTERS_PER_TOKEN = 8
"""The first guess, on the safe side for nearly all texts (English: 4 to 5)."""
GROWTH = 4
"""A piece with too few tokens is made this many times longer."""
NEIGHBOURHOOD = 64
"""Characters on each side that the normalizer and the pre-tokenizer are asked about."""
CHARACTERS_PER_TEST = 128
MIN_TESTS, MAX_TESTS = 32, 1024
"""How many places are tested in a part of a text: a test takes as long as tokenizing about that many characters."""
MAX_WORD_PLACES = 65_536
"""Places looked at: a line of 10 million dashes must not be searched one by one."""

_WORD_PLACES = r" \n\t\r\u3000!-/:-@\[-`{-~、。，．！？；：（）「」『』《》…"
_IDEOGRAPHS = r"\u4e00-\u9fff"
_REGULAR = frozenset({"ByteLevel", "Whitespace", "Punctuation", "Digits", "CharDelimiterSplit", "Split"})
_LOCAL = frozenset({"BertPreTokenizer", "Metaspace", "WhitespaceSplit"})
"""Pre-tokenizers that look at single characters only."""


@dataclass(frozen=True, slots=True)
class TextEnd:
    """Tokens from one end of a text, special tokens not included."""

    ids: list[int] | npt.NDArray[np.int32]
    is_all: bool
    """True: these are all the tokens of the text."""


def leading_ids(
    text: str,
    count: int,
    *,
    encode: Callable[[str], list[int]],
    seams: Seams,
    max_characters: int,
    characters_per_token: int = CHARACTERS_PER_TOKEN,
) -> TextEnd | None:
    """Return at least the first `count` token ids of `text` (fewer only if it has no more).

    `encode` tokenizes without special tokens; it is given the text's beginning, in growing pieces of at most
    `max_characters`. None: they do not tell. Of a longer text, only the `seams.reach` characters after them count, so
    the rest may be missing.
    """
    size = max(1, characters_per_token * count)
    longest = min(len(text), max_characters)
    while size < longest:
        seam = seams.find(text, size, min(size * GROWTH, longest))
        if seam is not None:
            ids = encode(text[:seam])
            if len(ids) >= count:
                return TextEnd(ids, is_all=False)
        size *= GROWTH
    return TextEnd(encode(text), is_all=True) if len(text) <= max_characters else None


def trailing_ids(
    text: str,
    count: int,
    *,
    encode: Callable[[str], list[int]],
    seams: Seams,
    max_characters: int,
    characters_per_token: int = CHARACTERS_PER_TOKEN,
) -> TextEnd | None:
    """Return at least the last `count` token ids of `text` (fewer only if it has no more): see `leading_ids`."""
    size = max(1, characters_per_token * count)
    while size < min(len(text), max_characters):
        start = len(text) - size
        first = seams.find(text, start, len(text), backwards=True)
        second = first and seams.find(text, first + 1, len(text), backwards=True)
        if first and second:
            ids = encode(text[first:])[len(encode(text[first:second])) :]
            if len(ids) >= count:
                return TextEnd(ids, is_all=False)
        size *= GROWTH
    return TextEnd(encode(text), is_all=True) if len(text) <= max_characters else None


def first_characters(prompt: str, text: str, count: int) -> str:
    """`(prompt + text)[:count]`, without making the whole."""
    return prompt[:count] + text[: max(0, count - len(prompt))]


def last_characters(prompt: str, text: str, count: int) -> str:
    """The last `count` characters of `prompt + text`, without making the whole."""
    rest = max(0, count - len(text))
    return prompt[max(0, len(prompt) - rest) :] + text[max(0, len(text) - count) :]


@dataclass(frozen=True, slots=True)
class Seams:
    """Finds seams for one tokenizer, which must not change any more."""

    tokenizer: Tokenizer
    word_places: re.Pattern[str]
    """Characters before which a word may end."""
    divides_words: bool
    """True: the pre-tokenizer is of a known kind that reads from left to right."""
    isolates: bool
    """True: punctuation and ideographs are words of their own, whatever is before them (BERT)."""
    pairs: npt.NDArray[np.uint64] | None
    """Pairs of characters inside tokens, sorted; None where they prove nothing."""
    pairs_backwards: bool
    space: str
    """What the model sees for a space."""
    added_tokens: tuple[str, ...]
    normalized_added_tokens: tuple[str, ...]
    """Those looked for in the normalized text, in every form in which they may be there."""
    reach: int
    """Characters on each side of a place that decide whether it is a seam."""

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Seams:
        parts = _pre_tokenizer_parts(tokenizer)
        types = {part["type"] for part in parts}
        isolates = "BertPreTokenizer" in types
        tokens = tokenizer.get_added_tokens_decoder().values()
        return cls(
            tokenizer=tokenizer,
            word_places=re.compile(f"[{_WORD_PLACES}{_IDEOGRAPHS if isolates else ''}]"),
            divides_words=types <= _REGULAR | _LOCAL,
            isolates=isolates,
            pairs=_vocabulary_pairs(tokenizer) if all(map(_is_local, parts)) else None,
            pairs_backwards=isinstance(tokenizer.model, models.BPE),
            space=next((part["replacement"] for part in parts if part["type"] == "Metaspace"), " "),
            added_tokens=tuple(token.content for token in tokens),
            normalized_added_tokens=_normalized_forms(
                tokenizer, [token.content for token in tokens if token.normalized]
            ),
            reach=max(NEIGHBOURHOOD, *(len(token.content) for token in tokens), 0) + 1,
        )

    def find(self, text: str, start: int, stop: int, *, backwards: bool = False) -> int | None:
        """Return a seam in `text[start:stop]`, the first that is found; `backwards`: one that serves `text[seam:]`.

        A place further from the seam than `reach` does not matter.
        """
        use_pairs = self.pairs is not None and (self.pairs_backwards or not backwards)
        start, stop = max(1, start), min(stop, len(text))
        num_tests = min(MAX_TESTS, max(MIN_TESTS, (stop - start) // CHARACTERS_PER_TEST))
        places = self._places(text, start, stop, num_pairs=num_tests // 2 if use_pairs else 0)
        for place in islice(places, num_tests):
            if self._is_seam(text, place, use_pairs=use_pairs):
                return place
        return None

    def _places(self, text: str, start: int, stop: int, *, num_pairs: int) -> Iterator[int]:
        """The first places, where they may serve as pairs, and then those where a word may end."""
        yield from range(start, min(stop, start + num_pairs))
        for found in islice(self.word_places.finditer(text, start, stop), MAX_WORD_PLACES):
            if num_pairs or self._may_end_word(text[found.start() - 1], text[found.start()]):
                yield found.start()

    def _may_end_word(self, before: str, after: str) -> bool:
        if after.isspace():
            return _is_plain(before)
        return not before.isspace() if self.isolates else before.isalpha()

    def _is_seam(self, text: str, place: int, *, use_pairs: bool) -> bool:
        before, after = text[place - 1], text[place]
        word = self.divides_words and self._may_end_word(before, after)
        pair = use_pairs and _is_plain(before) and (_is_plain(after) or after == " ")
        if not (word or pair) or unicodedata.category(text[place + 1 : place + 2] or " ").startswith("M"):
            return False  # a mark might change the character after the place
        left = self._normalize(text[max(0, place - NEIGHBOURHOOD) : place])
        both = self._normalize(text[max(0, place - NEIGHBOURHOOD) : place + NEIGHBOURHOOD])
        if not left or len(both) == len(left) or not both.startswith(left):
            return False
        divides = (word and self._pre_tokenizer_divides(both, len(left))) or (pair and self._no_token_has(both, left))
        return divides and not self._touches_added_token(text, place, both, len(left))

    def _normalize(self, text: str) -> str:
        normalizer = self.tokenizer.normalizer
        return text if normalizer is None else normalizer.normalize_str(text)

    def _pre_tokenizer_divides(self, text: str, place: int) -> bool:
        pre_tokenizer = self.tokenizer.pre_tokenizer
        if pre_tokenizer is None:
            return False
        return not any(start < place < end for _, (start, end) in pre_tokenizer.pre_tokenize_str(text))

    def _no_token_has(self, both: str, left: str) -> bool:
        """Whether the last character of `left` and the next one in `both` are side by side in no token."""
        assert self.pairs is not None
        first, second = (ord(self.space if c == " " else c) for c in both[len(left) - 1 : len(left) + 1])
        pair = np.uint64(first << 32 | second)
        i = int(np.searchsorted(self.pairs, pair))
        return i == len(self.pairs) or bool(self.pairs[i] != pair)

    def _touches_added_token(self, text: str, place: int, both: str, place_in_both: int) -> bool:
        if any(_is_at(token, text, place) for token in self.added_tokens):
            return True
        if not self.normalized_added_tokens:
            return False
        near = text[max(0, place - NEIGHBOURHOOD) : place + NEIGHBOURHOOD]
        if not "".join(near.split()).isprintable():
            return True  # control characters, which normalizers remove, could hide such a token
        return any(_is_at(token, both, place_in_both) for token in self.normalized_added_tokens)


def _is_at(token: str, text: str, place: int) -> bool:
    """Whether `token` lies across `place` in `text`, or starts or ends there."""
    return token in text[max(0, place - len(token)) : place + len(token)]


def _is_plain(character: str) -> bool:
    return character.isalnum() or unicodedata.category(character).startswith("P")


def _pre_tokenizer_parts(tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """The declarations of the pre-tokenizers in order, sequences unfolded; empty without one."""
    if tokenizer.pre_tokenizer is None:
        return []
    waiting, parts = [json.loads(tokenizer.pre_tokenizer.__getstate__())], []
    while waiting:
        part = waiting.pop(0)
        if part["type"] == "Sequence":
            waiting = [*part["pretokenizers"], *waiting]
        else:
            parts.append(part)
    return parts


def _is_local(part: dict[str, Any]) -> bool:
    return part["type"] in _LOCAL or (part["type"] == "Split" and len(part["pattern"].get("String", "")) == 1)


def _vocabulary_pairs(tokenizer: Tokenizer) -> npt.NDArray[np.uint64] | None:
    """All pairs of neighbouring characters inside the model's tokens: first << 32 | second, sorted."""
    model = tokenizer.model
    if not isinstance(model, models.BPE | models.Unigram):
        return None
    if isinstance(model, models.BPE) and (model.continuing_subword_prefix or model.end_of_word_suffix):
        return None
    joined = "\0".join(tokenizer.get_vocab(with_added_tokens=False))
    characters = np.frombuffer(joined.encode("utf-32-le"), dtype="<u4").astype(np.uint64)
    return np.unique(characters[:-1] << np.uint64(32) | characters[1:])


def _normalized_forms(tokenizer: Tokenizer, contents: list[str]) -> tuple[str, ...]:
    normalizer = tokenizer.normalizer
    if normalizer is None:
        return tuple(contents)
    prefix = normalizer.normalize_str("aa").removesuffix("aa")
    forms = set(contents)
    for content in contents:
        normalized = normalizer.normalize_str(content)
        forms |= {normalized, normalized.removeprefix(prefix)}
    return tuple(sorted(forms - {""}))
