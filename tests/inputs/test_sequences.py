"""Requests as a whole: their limits, and that no request makes more work or memory than they allow."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from checkpoints import tiny_checkpoint, tiny_spec
from embedway.errors import (
    ContextLengthExceeded,
    InvalidTokenId,
    InvalidValue,
    TooManyCharacters,
    TooManyTokens,
    UnknownPrompt,
)
from embedway.inputs.items import Items, parse_input
from embedway.inputs.sequences import InputOptions, SequenceMaker

if TYPE_CHECKING:
    from embedway.inputs.tokenizer import Truncate
    from embedway.packed_sequences import PackedSequences

LIMIT = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(
        "bert", tmp_path_factory.mktemp("sequences") / "model", max_seq_length=LIMIT, prompts={"query": "search: "}
    )


@pytest.fixture(scope="module")
def maker(folder: Path) -> SequenceMaker:
    return SequenceMaker.load(tiny_spec(folder), max_request_tokens=1000)


def items(*values: object) -> Items:
    return parse_input(list(values), max_items=10_000)


def changed(maker: SequenceMaker, *, max_request_tokens: int = 1000, **spec: object) -> SequenceMaker:
    return SequenceMaker.load(msgspec.structs.replace(maker.spec, **spec), max_request_tokens=max_request_tokens)


def as_lists(sequences: PackedSequences) -> list[list[int]]:
    return [part.tolist() for part in np.split(sequences.token_ids, sequences.cu_seqlens[1:-1])]


@contextmanager
def megabytes_at_most(limit: float) -> Generator[None, None, None]:
    """Python's own memory, at its peak inside."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < limit * 1e6


@pytest.fixture
def read_characters(monkeypatch: pytest.MonkeyPatch, maker: SequenceMaker) -> list[int]:
    """How many characters the tokenizer was given in each call."""
    counts: list[int] = []
    encode = type(maker.tokenizer)._encode_batch

    def counted(self: Any, texts: list[str], **options: Any) -> list[Any]:
        counts.append(sum(map(len, texts)))
        return encode(self, texts, **options)

    monkeypatch.setattr(type(maker.tokenizer), "_encode_batch", counted)
    return counts


PROMPTS = ["the quick fox: " * 40, "search " * 100_000, "a" * 900 + " cat", "fox " * 4 + " " * 3000]


@pytest.mark.parametrize("truncate", ["end", "start"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_long_prompt_gives_the_tokens_of_prompt_and_text_together(
    maker: SequenceMaker, prompt: str, truncate: Truncate
) -> None:
    texts = ["cat", "a dog sat on the mat " * 3, "what is this " * 1000]

    made = maker.make(items(*texts), InputOptions(prompt=prompt, truncate=truncate))

    together = maker.make(items(*(prompt + text for text in texts)), InputOptions(truncate=truncate))
    assert as_lists(made) == as_lists(together)
    whole = maker.tokenizer.encode_whole([prompt + text for text in texts], add_special_tokens=False)
    room = LIMIT - 2
    kept = [ids[-room:] if truncate == "start" else ids[:room] for ids in whole]
    assert [ids[1:-1] for ids in as_lists(made)] == [ids.tolist() for ids in kept]


@pytest.mark.parametrize("truncate", ["none", "end", "start"])
def test_a_long_prompt_is_not_copied_for_each_item(maker: SequenceMaker, truncate: Truncate) -> None:
    prompt = "search " * 1_000_000
    request = items(*["cat"] * 50)

    with megabytes_at_most(10):
        if truncate == "none":
            with pytest.raises(ContextLengthExceeded):
                maker.make(request, InputOptions(prompt=prompt))
        else:
            maker.make(request, InputOptions(prompt=prompt, truncate=truncate))


def test_a_prompt_over_the_limit_is_refused_at_the_first_item(maker: SequenceMaker, read_characters: list[int]) -> None:
    with pytest.raises(ContextLengthExceeded) as caught:
        maker.make(items(*["cat"] * 500), InputOptions(prompt="search " * 10_000))

    assert caught.value.param == "input[0]"
    assert "special tokens and the prompt included" in caught.value.message
    assert len(read_characters) == 1


def test_half_a_surrogate_pair_in_the_prompt_is_named(maker: SequenceMaker) -> None:
    with pytest.raises(InvalidValue, match="'prompt' is not Unicode"):
        maker.make(items("cat"), InputOptions(prompt="a\ud83d"))


def test_work_counts_the_prompt_for_each_item_and_token_ids_as_characters(maker: SequenceMaker) -> None:
    assert maker.work(items("cat", "lazy"), InputOptions()) == 7
    assert maker.work(items("cat", "lazy"), InputOptions(prompt="12345")) == 17
    assert maker.work(items("cat", "lazy"), InputOptions(prompt_name="query")) == 7 + 2 * len("search: ")
    assert maker.work(items([1, 2, 3], [4]), InputOptions()) == 4
    with pytest.raises(UnknownPrompt):
        maker.work(items("cat"), InputOptions(prompt_name="nope"))


def test_too_many_tokens_end_the_tokenizing(maker: SequenceMaker, read_characters: list[int]) -> None:
    long_limit = changed(maker, max_length=100_000)

    with pytest.raises(TooManyTokens, match=r"'input' has at least \d+ tokens in all"):
        long_limit.make(items(*["cat " * 50_000] * 50), InputOptions())

    assert sum(read_characters) <= 1_000_000


def test_the_tokens_of_a_small_request_are_all_counted(maker: SequenceMaker) -> None:
    with pytest.raises(TooManyTokens, match="'input' has 12 tokens in all, but a request may have at most 11"):
        changed(maker, max_request_tokens=11).make(items(*["the cat"] * 3), InputOptions())


@pytest.mark.parametrize("truncate", ["none", "end", "start"])
def test_one_item_without_words_is_refused_for_its_characters(
    maker: SequenceMaker, truncate: Truncate, read_characters: list[int]
) -> None:
    with pytest.raises(TooManyCharacters) as caught:
        maker.make(items("cat", "a" * 1_000_001), InputOptions(truncate=truncate))

    assert caught.value.message == (
        "The tokens of 'input[1]' are not within 1000000 characters, the most that are read of an item: it has very "
        "long words or runs of spaces."
    )
    assert sum(read_characters) < 1_000_000


def test_the_longest_item_that_is_read_whole_may_lack_words(maker: SequenceMaker) -> None:
    made = maker.make(items("a" * 1_000_000), InputOptions(truncate="end"))

    assert made.num_tokens == 3


@pytest.mark.parametrize("truncate", ["end", "start"])
def test_many_items_without_words_are_refused_for_their_characters_together(
    maker: SequenceMaker, truncate: Truncate, read_characters: list[int]
) -> None:
    with pytest.raises(TooManyCharacters, match=r"'input' are not within 2000000 characters, .* of a request"):
        maker.make(items(*[" " * 400_000 + "a" for _ in range(20)]), InputOptions(truncate=truncate))

    assert sum(read_characters) <= 2_000_000


def test_many_short_items_of_few_tokens_are_refused_for_their_characters_together(
    maker: SequenceMaker, read_characters: list[int]
) -> None:
    long_limit = changed(maker, max_length=100_000)

    with pytest.raises(TooManyCharacters, match="of a request"):
        long_limit.make(items(*["a" * 300_000] * 20), InputOptions())

    assert sum(read_characters) <= 2_000_000


def test_a_long_prompt_of_few_tokens_is_counted_for_each_item(maker: SequenceMaker, read_characters: list[int]) -> None:
    with pytest.raises(TooManyCharacters, match="of a request"):
        maker.make(items(*["cat"] * 20), InputOptions(prompt=" " * 400_000, truncate="end"))

    assert sum(read_characters) <= 2_000_000


@pytest.mark.parametrize(
    ("truncate", "problem"),
    [
        ("none", "at least 1600 tokens"),
        ("end", "1600 tokens"),
        ("start", "1600 tokens"),
    ],
)
def test_token_ids_are_summed_before_any_is_looked_at(maker: SequenceMaker, truncate: Truncate, problem: str) -> None:
    wrong = [10**6] * (LIMIT + 1)

    with pytest.raises(TooManyTokens, match=f"'input' has {problem} in all"):
        maker.make(items(*[wrong] * 100), InputOptions(truncate=truncate))


def test_cut_token_ids_count_as_what_is_left(maker: SequenceMaker) -> None:
    tight = changed(maker, max_request_tokens=2 * LIMIT)

    assert tight.make(items([5] * 500, [6] * 500), InputOptions(truncate="end")).num_tokens == 2 * LIMIT
    with pytest.raises(ContextLengthExceeded, match=r"'input\[1\]' has 17 tokens"):
        tight.make(items([5], [6] * 17), InputOptions())


def test_huge_lists_of_token_ids_need_no_memory_of_their_size(maker: SequenceMaker) -> None:
    request = items([5] * 2_000_000)

    with megabytes_at_most(1):
        with pytest.raises(ContextLengthExceeded):
            maker.make(request, InputOptions())
        assert maker.make(request, InputOptions(truncate="start")).num_tokens == LIMIT


def test_whole_texts_are_refused_before_they_are_tokenized(maker: SequenceMaker, read_characters: list[int]) -> None:
    with pytest.raises(TooManyCharacters, match="'input' are not within 2000000 characters"):
        maker.tokens_of(items(*["cat " * 100_000] * 6), add_special_tokens=True)

    with pytest.raises(TooManyCharacters, match=r"'input\[1\]' are not within 1000000 characters, .* of an item\.$"):
        maker.tokens_of(items("cat", "cat " * 250_001), add_special_tokens=True)
    assert not read_characters
    assert len(maker.tokens_of(items("cat " * 50_000), add_special_tokens=False)[0]) == 50_000


def test_too_many_token_ids_are_not_made_text(maker: SequenceMaker) -> None:
    assert maker.texts_of(items([7] * 1000), skip_special_tokens=True)
    with pytest.raises(TooManyTokens, match="'input' has 1001 tokens"):
        maker.texts_of(items([7] * 1000, [8]), skip_special_tokens=True)
    with pytest.raises(InvalidTokenId):
        maker.texts_of(items([10**6]), skip_special_tokens=True)


@pytest.mark.parametrize("text", ["the cat sat on the mat, " * 3, "the cat sat on the mat, " * 100])
def test_a_prompt_that_the_pooling_leaves_out_is_not_cut_off(maker: SequenceMaker, text: str) -> None:
    without_prompt = changed(maker, include_prompt=False)

    with pytest.raises(InvalidValue, match=r"cut off the prompt of 'input\[1\]'") as caught:
        without_prompt.make(items("cat", text), InputOptions(prompt="search: ", truncate="start"))

    assert caught.value.param == "truncate"


def test_other_cuts_are_fine_where_the_pooling_leaves_the_prompt_out(maker: SequenceMaker) -> None:
    without_prompt = changed(maker, include_prompt=False)
    long, make = "the cat sat on the mat, " * 3, without_prompt.make

    fitting = make(items("the cat"), InputOptions(prompt="search: ", truncate="start"))
    assert fitting.pool_start == 3
    assert as_lists(fitting) == as_lists(make(items("search: the cat"), InputOptions()))
    assert make(items(long), InputOptions(prompt="search: ", truncate="end")).num_tokens == LIMIT
    assert make(items(long), InputOptions(truncate="start")).num_tokens == LIMIT
    with pytest.raises(ContextLengthExceeded):
        make(items(long), InputOptions(prompt="search: "))


@pytest.mark.parametrize("take", [list, lambda texts: [texts[0]]])
def test_short_and_long_texts_stay_in_order(
    maker: SequenceMaker, take: Callable[[list[str]], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedway.inputs.tokenizer.BATCH_CHARACTERS", 20)
    texts = take(["cat", "dog " * 500, "the quick fox", "sat on the mat", "a", "lazy " * 900, "lazy " * 901, "what"])

    made = as_lists(maker.make(items(*texts), InputOptions(truncate="end")))

    assert made == [as_lists(maker.make(items(text), InputOptions(truncate="end")))[0] for text in texts]


def test_quick_work_is_more_where_the_tokenizer_is_faster(maker: SequenceMaker) -> None:
    slower = replace(maker, tokenizer=replace(maker.tokenizer, fast=None))
    quick = {
        (one is maker, text): max(count for count in (4_096, 8_192, 32_768, 40_000) if one.is_quick(items(text), count))
        for one in (maker, slower)
        for text in ("ascii", "naïve")
    }
    assert quick == {
        (True, "ascii"): 32_768,
        (True, "naïve"): 8_192,
        (False, "ascii"): 4_096,
        (False, "naïve"): 4_096,
    }
    assert maker.is_quick(items([1, 2]), 4_096)
    assert not maker.is_quick(items([1, 2]), 4_097)
    assert maker.is_quick(items(*["a"] * 64), 64)
    assert not maker.is_quick(items(*["a"] * 65), 65)
