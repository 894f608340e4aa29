"""Texts → token ids: the special tokens that the checkpoint declares, its limit, truncation at either end."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, normalizers

from embedway.errors import ContextLengthExceeded, InvalidTokenId, InvalidValue, UnsupportedCheckpoint
from embedway.inputs.special_tokens import declared_post_processor
from embedway.inputs.truncation import CHARACTERS_PER_TOKEN, Seams, leading_ids, trailing_ids
from embedway.model_spec import ModelSpec

Ids = npt.NDArray[np.int32]
Truncate = Literal["none", "end", "start"]

LONG_TEXT = 2 * CHARACTERS_PER_TOKEN
"""Texts of more characters per token of the limit are read piece by piece; shorter ones are tokenized whole."""
_SURROGATE = re.compile("[\ud800-\udfff]")


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
        )

    @property
    def num_special_tokens(self) -> int:
        """How many special tokens each text gets."""
        return len(self.leading) + len(self.trailing)

    def encode(
        self,
        texts: Sequence[str],
        *,
        prompt: str = "",
        truncate: Truncate,
        max_length: int,
        param: Callable[[int], str] = "input[{}]".format,
    ) -> list[Ids]:
        """Return the int32 ids of each text, special tokens included, at most `max_length` of them.

        `prompt` is put before each text, as sentence-transformers does. A longer text is cut at its end or start, as
        transformers does with `truncation_side` right or left: special tokens stay. `param(i)` names text i in errors.
        Raises ContextLengthExceeded where `truncate` is "none" (a very long text is not counted to its end), and
        InvalidValue for text that is not Unicode or that spells a token without an embedding.
        """
        whole = [prompt + text for text in texts] if prompt else texts
        is_long = [len(text) > LONG_TEXT * max_length for text in whole]
        with _unicode_only(whole, param):
            short = iter(self._encode_batch([text for text, long in zip(whole, is_long, strict=True) if not long]))
            sequences = [
                self._encode_long(text, truncate, max_length, param(i))
                if is_long[i]
                else self._cut(next(short), truncate, max_length, param(i))
                for i, text in enumerate(whole)
            ]
        if self.has_ids_beyond:
            self._check_embeddings(sequences, param)
        return sequences

    def encode_whole(
        self,
        texts: Sequence[str],
        *,
        add_special_tokens: bool = True,
        param: Callable[[int], str] = "input[{}]".format,
    ) -> list[Ids]:
        """Return the int32 ids of each text, however many. Raises InvalidValue for text that is not Unicode."""
        with _unicode_only(texts, param):
            batch = self._encode_batch(texts, add_special_tokens=add_special_tokens)
        return [np.array(ids, np.int32) for ids in batch]

    def count(self, text: str) -> int:
        """Tokens of `text`, special tokens included, however many."""
        return len(self._encode_batch([text])[0])

    def detokenize(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Return the text of ids, which must be inside the vocabulary."""
        return self.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)

    def _encode_batch(self, texts: Sequence[str], *, add_special_tokens: bool = True) -> list[list[int]]:
        encodings = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=add_special_tokens)
        return [encoding.ids for encoding in encodings]

    def _cut(self, ids: list[int], truncate: Truncate, max_length: int, param: str) -> Ids:
        if len(ids) <= max_length:
            return np.array(ids, np.int32)
        if truncate == "none":
            raise ContextLengthExceeded(param=param, length=len(ids), limit=max_length)
        return self._between_special_tokens(
            ids[len(self.leading) : len(ids) - len(self.trailing)], truncate, max_length
        )

    def _encode_long(self, text: str, truncate: Truncate, max_length: int, param: str) -> Ids:
        count = max(0, max_length - self.num_special_tokens)
        read = trailing_ids if truncate == "start" else leading_ids
        wanted = count + 1 if truncate == "none" else count
        end = read(text, wanted, encode=self._content_of, seams=self.seams)
        if truncate == "none" and len(end.ids) > count:
            length = len(end.ids) + self.num_special_tokens
            raise ContextLengthExceeded(
                param=param, length=length if end.is_all else f"at least {length}", limit=max_length
            )
        return self._between_special_tokens(end.ids, truncate, max_length)

    def _content_of(self, text: str) -> list[int]:
        return self._encode_batch([text], add_special_tokens=False)[0]

    def _between_special_tokens(self, content: list[int], truncate: Truncate, max_length: int) -> Ids:
        count = max(0, max_length - self.num_special_tokens)
        kept = content[max(0, len(content) - count) :] if truncate == "start" else content[:count]
        return np.concatenate([self.leading, np.array(kept, np.int32), self.trailing])

    def _check_embeddings(self, sequences: list[Ids], param: Callable[[int], str]) -> None:
        for i, ids in enumerate(sequences):
            if ids.size and ids.max() >= self.vocab_size:
                token = self.tokenizer.id_to_token(int(ids.max()))
                raise InvalidValue(param=param(i), problem=f"has the token {token!r}, which this model does not know")


def check_token_ids(
    ids: list[int],
    *,
    param: str,
    vocab_size: int,
    max_length: int,
    truncate: Truncate,
    leading: Sequence[int] | Ids = (),
    trailing: Sequence[int] | Ids = (),
) -> Ids:
    """Return a client's own token ids as int32, as they are: nothing is added.

    Too many are cut at their end or start; where they begin with `leading` or end with `trailing` (the special tokens
    of `TextTokenizer`), those stay, as they do for a text. Raises InvalidTokenId (named `param[j]`) for ids outside 0
    to `vocab_size - 1`, and ContextLengthExceeded where `truncate` is "none".
    """
    array = _inside_vocabulary(ids, param, vocab_size)
    if len(array) <= max_length:
        return array
    if truncate == "none":
        raise ContextLengthExceeded(param=param, length=len(array), limit=max_length)
    head = len(leading) if np.array_equal(array[: len(leading)], leading) else 0
    tail = len(trailing) if np.array_equal(array[len(array) - len(trailing) :], trailing) else 0
    content = array[head : len(array) - tail]
    count = max(0, max_length - head - tail)
    kept = content[len(content) - count :] if truncate == "start" else content[:count]
    return np.concatenate([array[:head], kept, array[len(array) - tail :]])


def _inside_vocabulary(ids: list[int], param: str, vocab_size: int) -> Ids:
    try:
        array = np.array(ids, np.int64)
    except OverflowError:
        wrong = next(j for j, token_id in enumerate(ids) if not 0 <= token_id < vocab_size)
    else:
        outside = (array < 0) | (array >= vocab_size)
        if not outside.any():
            return array.astype(np.int32)
        wrong = int(outside.argmax())
    raise InvalidTokenId(param=f"{param}[{wrong}]", token_id=ids[wrong], largest=vocab_size - 1)


@contextmanager
def _unicode_only(texts: Sequence[str], param: Callable[[int], str]) -> Generator[None, None, None]:
    """Tell which text has a lone surrogate: the tokenizer says only that it got no string."""
    try:
        yield
    except TypeError as error:
        for i, text in enumerate(texts):
            if _SURROGATE.search(text):
                raise InvalidValue(param=param(i), problem="is not Unicode: it has half a surrogate pair") from error
        raise


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
