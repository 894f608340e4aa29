"""Who may ask for which files and batches: an API key for those that came with it, and without keys all for all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedway.api.auth import key_number_of
from embedway.api.context import context_of
from embedway.api_keys import NO_KEY
from embedway.errors import BatchesNotServed, InvalidValue

if TYPE_CHECKING:
    from fastapi import Request

    from embedway.api_keys import ApiKeys
    from embedway.batches.service import Batches

NOBODY = ""
"""The owner of what came without a key, or with the admin's"""
SHORTEST_LIFE, LONGEST_LIFE = 3600, 30 * 24 * 3600
"""Seconds that a file may be asked to live: OpenAI's"""


def batches_of(request: Request) -> Batches:
    """Raises BatchesNotServed."""
    batches = context_of(request).batches
    if batches is None:
        raise BatchesNotServed
    return batches


def owner_of(request: Request) -> str:
    number = key_number_of(request)
    return NOBODY if number == NO_KEY else context_of(request).keys.users[number - 1].hex()


def key_number(keys: ApiKeys, owner: str) -> int | None:
    """None: the server knows this key no more."""
    if owner == NOBODY:
        return NO_KEY
    numbers = {digest.hex(): number for number, digest in enumerate(keys.users, NO_KEY + 1)}
    return numbers.get(owner)


def check_life(param: str, anchor: object, seconds: object) -> int:
    """The seconds that a file is to live. Raises InvalidValue."""
    if anchor != "created_at":
        raise InvalidValue(param=f"{param}.anchor", problem='must be "created_at"')
    if not isinstance(seconds, int) or isinstance(seconds, bool) or not SHORTEST_LIFE <= seconds <= LONGEST_LIFE:
        raise InvalidValue(
            param=f"{param}.seconds", problem=f"must be a whole number from {SHORTEST_LIFE} to {LONGEST_LIFE}"
        )
    return seconds
