from __future__ import annotations

import itertools
import statistics

import pytest
from benchmarks.checkpoints import minilm_folder
from benchmarks.texts import Lengths, document_lengths, query_lengths, texts, uniform_lengths
from tokenizers import Tokenizer


@pytest.mark.parametrize(
    ("lengths", "shortest", "longest", "average"),
    [(query_lengths, 6, 18, 12), (document_lengths, 20, 256, 138), (uniform_lengths, 138, 138, 138)],
)
def test_texts_have_exactly_the_tokens_that_they_say(
    lengths: Lengths, shortest: int, longest: int, average: int
) -> None:
    made = list(itertools.islice(texts(lengths, 0), 500))
    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    counts = [len(encoding.ids) for encoding in tokenizer.encode_batch([text.text for text in made])]
    assert counts == [text.num_tokens for text in made]
    assert min(counts) >= shortest
    assert max(counts) <= longest
    assert statistics.mean(counts) == pytest.approx(average, rel=0.1)


def test_no_text_comes_twice() -> None:
    made = [text.text for seed in (0, 1) for text in itertools.islice(texts(query_lengths, seed), 2000)]
    assert len(set(made)) == len(made)


def test_a_seed_makes_the_same_texts_for_every_contestant() -> None:
    first, second = (list(itertools.islice(texts(document_lengths, "a seed"), 5)) for _ in range(2))
    assert first == second
