"""Texts to embed: English prose from the docstrings of Python's standard library, of exact lengths in tokens.

A text is cut at words, and WordPiece reads each word by itself: so its number of tokens is known without tokenizing it.
"""

from __future__ import annotations

import ast
import functools
import random
import re
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from benchmarks.checkpoints import minilm_folder

NUM_WORDS = 40_000
SPECIAL_TOKENS = 2
"""[CLS] and [SEP], which the model reads too."""

Lengths = Callable[[random.Random], int]


@dataclass(frozen=True, slots=True)
class Text:
    text: str
    num_tokens: int
    """Of MiniLM's tokenizer, special tokens included"""


def query_lengths(rng: random.Random) -> int:
    """12 tokens on average"""
    return rng.randint(6, 18)


def document_lengths(rng: random.Random) -> int:
    """138 tokens on average, spread evenly up to MiniLM's longest"""
    return rng.randint(20, 256)


def uniform_lengths(rng: random.Random) -> int:  # noqa: ARG001 - the other lengths draw theirs
    """The documents' average"""
    return 138


def texts(lengths: Lengths, seed: int | str) -> Iterator[Text]:
    """Texts without end, no two alike, each as many tokens long as `lengths` says.

    Each is of two pieces, so that even the short ones of all workloads together hardly ever repeat.
    """
    prose, rng, seen = read_prose(), random.Random(seed), set()
    while True:
        num_tokens = lengths(rng)
        first = (num_tokens - SPECIAL_TOKENS) // 2
        pieces = [prose.draw(rng, first), prose.draw(rng, num_tokens - SPECIAL_TOKENS - first)]
        text = " ".join(pieces)
        if text not in seen:
            seen.add(text)
            yield Text(text, num_tokens)


@dataclass(frozen=True, slots=True)
class Prose:
    words: list[str]
    ends: npt.NDArray[np.int64]
    """[words + 1]: tokens of all words before each"""

    def draw(self, rng: random.Random, num_tokens: int) -> str:
        """Words in a row, of exactly `num_tokens` tokens, from anywhere."""
        while True:
            start = rng.randrange(len(self.words))
            wanted = self.ends[start] + num_tokens
            stop = int(np.searchsorted(self.ends, wanted))
            if stop < len(self.ends) and self.ends[stop] == wanted:
                return " ".join(self.words[start:stop])


@functools.cache
def read_prose() -> Prose:
    """The first words of the docstrings of the standard library's top level, in a fixed order."""
    words: list[str] = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        if len(words) > NUM_WORDS:
            break
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                words += re.findall(r"[\w'-]+[.,;:!?]?", ast.get_docstring(node) or "")
    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    tokenizer.no_padding()
    counts = [len(encoding.ids) for encoding in tokenizer.encode_batch(words, add_special_tokens=False)]
    return Prose(words, np.concatenate(([0], np.cumsum(counts))))
