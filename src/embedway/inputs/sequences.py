"""Items → packed sequences: prompts, tokens, limits. What the HTTP routes and the Python API have in common."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedway.errors import ContextLengthExceeded, InvalidValue, TooManyCharacters
from embedway.inputs.items import Items
from embedway.inputs.prompts import choose_prompt, excluded_tokens
from embedway.inputs.request_budget import RequestBudget
from embedway.inputs.token_ids import check_token_ids
from embedway.inputs.tokenizer import TextTokenizer, Truncate, max_item_characters
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

    def work(self, items: Items, options: InputOptions) -> int:
        """How many characters, or token ids, `make` is about to go through: small requests need no thread.

        Raises UnknownPrompt or InvalidValue, as `make` does.
        """
        return items.size + (len(items) * len(self._prompt(options)) if items.is_text else 0)

    def make(self, items: Items, options: InputOptions) -> PackedSequences:
        """Tokenize the texts, or check the token ids, of one request.

        Time and memory are bounded by `max_request_tokens`, whatever the request's size. Raises UnknownPrompt,
        InvalidValue, InvalidTokenId, ContextLengthExceeded, TooManyTokens or TooManyCharacters.
        """
        return self._of_texts(items, options) if items.is_text else self._of_token_ids(items, options)

    def tokens_of(self, items: Items, *, add_special_tokens: bool) -> list[Ids]:
        """All the ids of texts, also beyond the model's limit. Raises TooManyCharacters or InvalidValue."""
        limit = max_item_characters(self.spec.max_length)
        for i, text in enumerate(items.texts):
            if len(text) > limit:
                raise TooManyCharacters(param=items.param(i), limit=limit, scope="an item")
        self._budget(items).read(items.size)
        return self.tokenizer.encode_whole(items.texts, add_special_tokens=add_special_tokens, param=items.param)

    def texts_of(self, items: Items, *, skip_special_tokens: bool) -> list[str]:
        """The texts of token ids. Raises InvalidTokenId or TooManyTokens."""
        self._budget(items).check_tokens(items.size)
        lists = [self._check(items, i, limit=len(ids), truncate="none") for i, ids in enumerate(items.token_ids)]
        return [self.tokenizer.detokenize(ids.tolist(), skip_special_tokens=skip_special_tokens) for ids in lists]

    def _of_texts(self, items: Items, options: InputOptions) -> PackedSequences:
        prompt = self._prompt(options)
        pool_start = excluded_tokens(self.spec, self.tokenizer, prompt)
        # Cut at its start, a text has lost its prompt, so that the pooling would leave out tokens of the text.
        must_fit = pool_start > 0 and options.truncate == "start"
        try:
            ids = self.tokenizer.encode(
                items.texts,
                prompt=prompt,
                truncate="none" if must_fit else options.truncate,
                max_length=self.spec.max_length,
                param=items.param,
                budget=self._budget(items),
            )
        except ContextLengthExceeded as error:
            if not must_fit:
                raise
            problem = f"is 'start', which would cut off the prompt of '{error.param}', but this model's pooling"
            problem += " leaves out as many leading tokens as the prompt has: choose 'end' or send a shorter item"
            raise InvalidValue(param="truncate", problem=problem) from error
        return PackedSequences.of(ids, pool_start=pool_start)

    def _of_token_ids(self, items: Items, options: InputOptions) -> PackedSequences:
        """Ids are used as they are: nothing is put before them."""
        for param in ("prompt", "prompt_name", "input_type"):
            if getattr(options, param) is not None:
                raise InvalidValue(param=param, problem="is given, but the items are token ids, which get no prompt")
        limit = self.spec.max_length
        num_tokens = sum(min(len(ids), limit) for ids in items.token_ids)
        is_all = options.truncate != "none" or num_tokens == items.size
        self._budget(items).check_tokens(num_tokens, is_all=is_all)
        return PackedSequences.of(
            [self._check(items, i, limit=limit, truncate=options.truncate) for i in range(len(items))]
        )

    def _prompt(self, options: InputOptions) -> str:
        return choose_prompt(
            self.spec, input_type=options.input_type, prompt_name=options.prompt_name, prompt=options.prompt
        )

    def _budget(self, items: Items) -> RequestBudget:
        return RequestBudget(items.field, self.max_request_tokens)

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
