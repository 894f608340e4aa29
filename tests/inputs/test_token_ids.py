"""A client's own ids: used as they are, inside the vocabulary, cut as texts are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from checkpoints import tiny_checkpoint, tiny_spec
from embedway.errors import ContextLengthExceeded, InvalidTokenId
from embedway.inputs.token_ids import check_token_ids
from embedway.inputs.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from embedway.inputs.tokenizer import Truncate


def checked(ids: list[int], truncate: Truncate = "none", limit: int = 8) -> list[int]:
    array = check_token_ids(
        ids, param="input[2]", vocab_size=1000, max_length=limit, truncate=truncate, leading=[101], trailing=[102]
    )
    assert array.dtype == np.int32
    return array.tolist()


def test_ids_are_used_as_they_are() -> None:
    assert checked([5, 0, 999]) == [5, 0, 999]
    assert checked([5] * 8) == [5] * 8


@pytest.mark.parametrize("wrong", [1000, -1, 2**31, 2**32 + 5, 2**63, -(2**70), 10**300])
def test_an_id_outside_the_vocabulary_is_named(wrong: int) -> None:
    with pytest.raises(InvalidTokenId, match=r"'input\[2\]\[1\]' is the token id -?\d+, .* \(0 to 999\)") as caught:
        checked([5, wrong, 2**64])

    assert str(wrong) in caught.value.message


def test_too_many_ids_are_refused() -> None:
    with pytest.raises(ContextLengthExceeded, match=r"'input\[2\]' has 9 tokens, .* at most 8"):
        checked([5] * 9)


@pytest.mark.parametrize(
    ("ids", "end", "start"),
    [
        ([101, 1, 2, 3, 4, 102], [101, 1, 2, 102], [101, 3, 4, 102]),
        ([1, 2, 3, 4, 5, 6], [1, 2, 3, 4], [3, 4, 5, 6]),
        ([101, 1, 2, 3, 4], [101, 1, 2, 3], [101, 2, 3, 4]),
        ([1, 2, 3, 4, 102], [1, 2, 3, 102], [2, 3, 4, 102]),
    ],
)
def test_cut_ids_keep_the_special_tokens_that_they_have(ids: list[int], end: list[int], start: list[int]) -> None:
    assert checked(ids, "end", 4) == end
    assert checked(ids, "start", 4) == start


def test_an_id_that_is_kept_has_its_place_in_the_clients_list() -> None:
    for ids, truncate, wrong in (
        ([101, *[5] * 10, 1000, 102], "start", 11),
        ([101, 5, 1000, *[5] * 10, 102], "end", 2),
        ([-1, *[5] * 10], "end", 0),
        ([*[5] * 10, 2**70], "start", 10),
    ):
        with pytest.raises(InvalidTokenId) as caught:
            checked(ids, truncate, 4)
        assert caught.value.param == f"input[2][{wrong}]"


def test_ids_that_are_cut_off_are_not_looked_at() -> None:
    assert checked([1, 2, 3, 4, 2000], "end", 4) == [1, 2, 3, 4]
    assert checked([2000, 1, 2, 3, 4], "start", 4) == [1, 2, 3, 4]


def test_too_many_ids_are_refused_before_they_are_looked_at() -> None:
    with pytest.raises(ContextLengthExceeded):
        checked([2000] * 9)


@pytest.mark.parametrize("truncate", ["end", "start"])
@pytest.mark.parametrize("family", ["bert", "qwen3"])
def test_cut_ids_are_those_of_the_cut_text(tmp_path: Path, family: str, truncate: Truncate) -> None:
    spec = tiny_spec(tiny_checkpoint(family, tmp_path / "model"))
    made = TextTokenizer.load(spec)
    text = "the quick brown fox jumps over the lazy dog"
    [whole] = made.encode_whole([text])
    [expected] = made.encode([text], truncate=truncate, max_length=6)

    cut = check_token_ids(
        whole.tolist(),
        param="input",
        vocab_size=spec.vocab_size,
        max_length=6,
        truncate=truncate,
        leading=made.leading,
        trailing=made.trailing,
    )

    assert cut.tolist() == expected.tolist()
