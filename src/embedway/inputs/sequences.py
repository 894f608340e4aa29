"""Items → packed sequences: prompts, tokens, limits. What the HTTP routes and the Python API have in common."""

from __future__ import annotations

from dataclasses import dataclass

from embedway.errors import InvalidValue, TooManyTokens
from embedway.inputs.items import Items
from embedway.inputs.prompts import choose_prompt, excluded_tokens
from embedway.inputs.tokenizer import TextTokenizer, Truncate, check_token_ids
from embedway.model_spec import ModelSpec
from embedway.packed_sequences import PackedSequences


@dataclass(frozen=True, slots=True)
class InputOptions:
    """What a request says about how its items are to be read."""

    input_type: str | None = None
    prompt_name: str | None = None
    prompt: str | None = None
    truncate: Truncate = "none"


class SequenceMaker:
    """Makes sequences for one model, within the limits of a request. Safe to share between threads."""

    def __init__(self, spec: ModelSpec, tokenizer: TextTokenizer, *, max_request_tokens: int) -> None:
        self.spec = spec
        self.tokenizer = tokenizer
        self._max_request_tokens = max_request_tokens

    @classmethod
    def load(cls, spec: ModelSpec, *, max_request_tokens: int) -> SequenceMaker:
        """Raises UnsupportedCheckpoint where the tokenizer cannot be read."""
        return cls(spec, TextTokenizer.load(spec), max_request_tokens=max_request_tokens)

    def make(self, items: Items, options: InputOptions) -> PackedSequences:
        """Tokenize the texts, or check the token ids, of one request.

        Raises UnknownPrompt, InvalidValue, InvalidTokenId, ContextLengthExceeded or TooManyTokens.
        """
        sequences = self._of_texts(items, options) if items.is_text else self._of_token_ids(items, options)
        if sequences.num_tokens > self._max_request_tokens:
            raise TooManyTokens(param=items.field, count=sequences.num_tokens, limit=self._max_request_tokens)
        return sequences
