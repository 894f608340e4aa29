"""Items → packed sequences: prompts, tokens, limits. What the HTTP routes and the Python API have in common."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedway.errors import InvalidValue, TooManyTokens
from embedway.inputs.items import Items
from embedway.inputs.prompts import choose_prompt, excluded_tokens
from embedway.inputs.tokenizer import TextTokenizer, Truncate, check_token_ids
from embedway.model_spec import ModelSpec
from embedway.packed_sequences import PackedSequences

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class InputOptions:
    """What a request says about how its items are to be read."""

    input_type: str | None = None
    prompt_name: str | None = None
    prompt: str | None = None
    truncate: Truncate = "none"


@dataclass(frozen=True, slots=True)
class SequenceMaker:
    """Makes sequences for one model, within the limits of a request. Safe to share between threads."""

    spec: ModelSpec
    tokenizer: TextTokenizer
    max_request_tokens: int

    @classmethod
    def load(cls, spec: ModelSpec, *, max_request_tokens: int) -> SequenceMaker:
        """Raises UnsupportedCheckpoint where the tokenizer cannot be read."""
        return cls(spec, TextTokenizer.load(spec), max_request_tokens)

    def make(self, items: Items, options: InputOptions) -> PackedSequences:
        """Tokenize the texts, or check the token ids, of one request.

        Raises UnknownPrompt, InvalidValue, InvalidTokenId, ContextLengthExceeded or TooManyTokens.
        """
        sequences = self._of_texts(items, options) if items.is_text else self._of_token_ids(items, options)
        if sequences.num_tokens > self.max_request_tokens:
            raise TooManyTokens(param=items.field, count=sequences.num_tokens, limit=self.max_request_tokens)
        return sequences

    def tokens_of(self, items: Items, *, add_special_tokens: bool) -> list[Ids]:
        """The ids of texts, however many."""
        return self.tokenizer.encode_whole(items.texts, add_special_tokens=add_special_tokens, param=items.param)

    def texts_of(self, items: Items, *, skip_special_tokens: bool) -> list[str]:
        """The texts of token ids. Raises InvalidTokenId."""
        lists = [self._check(items, i, limit=len(ids), truncate="none") for i, ids in enumerate(items.token_ids)]
        return [self.tokenizer.detokenize(ids.tolist(), skip_special_tokens=skip_special_tokens) for ids in lists]

    def _of_texts(self, items: Items, options: InputOptions) -> PackedSequences:
        prompt = choose_prompt(
            self.spec, input_type=options.input_type, prompt_name=options.prompt_name, prompt=options.prompt
        )
        ids = self.tokenizer.encode(
            items.texts, prompt=prompt, truncate=options.truncate, max_length=self.spec.max_length, param=items.param
        )
        return PackedSequences.of(ids, pool_start=excluded_tokens(self.spec, self.tokenizer, prompt))

    def _of_token_ids(self, items: Items, options: InputOptions) -> PackedSequences:
        """Ids are used as they are: nothing is put before them."""
        for param in ("prompt", "prompt_name", "input_type"):
            if getattr(options, param) is not None:
                raise InvalidValue(param=param, problem="is given, but the items are token ids, which get no prompt")
        limit = self.spec.max_length
        return PackedSequences.of(
            [self._check(items, i, limit=limit, truncate=options.truncate) for i in range(len(items))]
        )

    def _check(self, items: Items, i: int, *, limit: int, truncate: Truncate) -> Ids:
        return check_token_ids(
            items.token_ids[i],
            param=items.param(i),
            vocab_size=self.spec.vocab_size,
            max_length=limit,
            truncate=truncate,
            leading=self.tokenizer.leading,
            trailing=self.tokenizer.trailing,
        )
