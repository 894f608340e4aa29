from __future__ import annotations

import pytest

from embedway.errors import TooManyCharacters, TooManyTokens
from embedway.inputs.request_budget import RequestBudget


def test_characters_add_up_to_32_for_each_token() -> None:
    budget = RequestBudget("input", max_tokens=300_000)
    budget.read(9_000_000)
    budget.read(600_000)

    with pytest.raises(TooManyCharacters) as caught:
        budget.read(1)

    assert caught.value.param == "input"
    assert caught.value.message == (
        "The tokens of 'input' are not within 9600000 characters, the most that are read of a request: 32 for each "
        "token that it may have (--max-request-tokens)."
    )


def test_a_small_limit_of_tokens_leaves_room_for_one_long_item() -> None:
    budget = RequestBudget("input", max_tokens=1)
    budget.read(2_000_000)

    assert budget.num_characters == 2_000_000


def test_too_many_tokens_are_counted_as_far_as_they_are_known() -> None:
    budget = RequestBudget("texts", max_tokens=10)
    budget.check_tokens(10)

    with pytest.raises(TooManyTokens, match="'texts' has 11 tokens in all, but a request may have at most 10 "):
        budget.check_tokens(11)
    with pytest.raises(TooManyTokens, match="'texts' has at least 11 tokens in all"):
        budget.check_tokens(11, is_all=False)
