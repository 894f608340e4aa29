"""What is embedded: made-up English, no two texts alike, or the lines of a file over and over."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator
from pathlib import Path

import orjson

from embedway.errors import InvalidSetting

WORDS = re.findall(
    r"\w+",
    "the a of and to in is for with on over not this how what where when why who which while after before between "
    "under about against through during without within around because although however therefore time year people "
    "way day world life hand part child eye woman place work week case point government company number group problem "
    "fact water river mountain forest garden kitchen window table street city village country school student teacher "
    "history science music language letter paper market price money bank office report question answer reason result "
    "change level power energy light heat sound color form line field area system method process theory model data "
    "search query document vector machine engine server network memory store index page word sentence book story "
    "make take give find think know want need ask tell feel become leave move live believe hold bring happen write "
    "provide sit stand lose pay meet include continue set learn lead understand watch follow stop create speak read "
    "new old good high small large early young important public bad same able long little great local late hard "
    "major better strong possible whole free real easy clear recent certain personal open red difficult available",
)


def made_up(num_words: int, seed: int | None = None) -> Iterator[str]:
    """Texts without end, of half to one and a half times `num_words` words.

    Without a seed they are others each time: a server that keeps vectors has none of them from the last measurement.
    """
    rng = random.Random(seed)  # noqa: S311 - no secret
    longest = num_words + num_words // 2
    for number in itertools.count():
        words = rng.choices(WORDS, k=rng.randint(max(1, num_words // 2), longest))
        yield f"{' '.join(words)} {number}"


def read_texts(path: Path) -> list[str]:
    """A text a line; of a .jsonl file each line is a string, or an object with `text`. Raises InvalidSetting."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSetting(setting="--input", problem=f"{path} cannot be read: {error}") from error
    filled = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    is_json = path.suffix == ".jsonl"
    texts = [_read_line(path, number, line) if is_json else line for number, line in filled]
    if not texts:
        raise InvalidSetting(setting="--input", problem=f"{path} has no text")
    return texts


def _read_line(path: Path, number: int, line: str) -> str:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise InvalidSetting(setting="--input", problem=f"{path}, line {number} is not valid JSON: {error}") from error
    text = value.get("text") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise InvalidSetting(setting="--input", problem=f"{path}, line {number} is neither a string nor has a 'text'")
    return text
