"""Texts to embed: English prose of every length, from the docstrings of Python's standard library. Each is unique."""

from __future__ import annotations

import ast
import random
import re
import sysconfig
from dataclasses import dataclass
from pathlib import Path

NUM_WORDS = 40_000


@dataclass(frozen=True, slots=True)
class Workload:
    name: str
    texts: list[str]


def documents(count: int, seed: int = 0) -> Workload:
    """Texts of 15 to 165 words, spread evenly: 20 to 256 tokens of MiniLM and a few more, 130 on average."""
    return Workload("documents", _texts(count, random.Random(seed), shortest=15, longest=165))


def queries(count: int, seed: int = 0) -> Workload:
    """Texts of 4 to 12 words, about 12 tokens on average."""
    return Workload("queries", _texts(count, random.Random(seed), shortest=4, longest=12))


def _texts(count: int, rng: random.Random, *, shortest: int, longest: int) -> list[str]:
    words = _prose()
    texts: dict[str, None] = {}
    while len(texts) < count:
        length, start = rng.randint(shortest, longest), rng.randrange(len(words))
        texts[" ".join(words[start : start + length])] = None
    return list(texts)


def _prose() -> list[str]:
    """The first words of the docstrings of the standard library's top level, in a fixed order."""
    words: list[str] = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        if len(words) > NUM_WORDS:
            break
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                words += re.findall(r"[\w'-]+[.,;:!?]?", ast.get_docstring(node) or "")
    return words
