"""RequestBudget: how much of one request is read, and the errors where that is not enough."""

from __future__ import annotations

from dataclasses import dataclass

from embedway.errors import TooManyCharacters, TooManyTokens

CHARACTERS_PER_TOKEN = 32
"""Texts have 4 to 5 characters a token, and code with its indentation seldom more than 10."""
UNLIMITED = 2**62
LEAST_CHARACTERS = 2_000_000
"""A server of few tokens a request still reads one long item."""


@dataclass(slots=True)
class RequestBudget:
    """Counts what the tokenizer reads for one request. Belongs to the thread that makes the request's sequences.

    A tokenizer takes about a microsecond and 50 bytes a character, so a body of 64 MiB would take a minute.
    """

    field: str
    """The request's field, for the errors."""
    max_tokens: int
    num_characters: int = 0
    """Read until now. Written by `read`."""

    @property
    def max_characters(self) -> int:
        return max(LEAST_CHARACTERS, CHARACTERS_PER_TOKEN * self.max_tokens)

    def read(self, num_characters: int) -> None:
        """Take note of characters before they are tokenized. Raises TooManyCharacters where they are too many."""
        self.num_characters += num_characters
        if self.num_characters > self.max_characters:
            scope = f"a request: {CHARACTERS_PER_TOKEN} for each token that it may have (--max-request-tokens)"
            raise TooManyCharacters(param=self.field, limit=self.max_characters, scope=scope)

    def check_tokens(self, num_tokens: int, *, is_all: bool = True) -> None:
        """Raises TooManyTokens; `is_all` tells whether these are the tokens of the whole request."""
        if num_tokens > self.max_tokens:
            count = num_tokens if is_all else f"at least {num_tokens}"
            raise TooManyTokens(param=self.field, count=count, limit=self.max_tokens)
