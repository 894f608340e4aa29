"""What is read: pieces of rows, in the order of the input, each with all that is needed to find it again."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that has no vector."""

    row: int
    """In its file, from 0"""
    reason: str


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows `start … stop - 1` of a file."""

    start: int
    stop: int
    table: pa.Table
    """Of the rows that could be read, with all their columns"""
    rows: npt.NDArray[np.int64]
    """int64 [n]: their numbers"""
    bad: tuple[BadRow, ...]
    """The others"""
    bytes_read: int
    """Of the file so far"""


def column_of(values: list[object]) -> pa.Array:
    """Of the type that they have together; texts where they have none."""
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError):
        return pa.array(map(as_text, values), pa.string())


def as_text(value: object) -> str | None:
    """A text as it is, null as null, all else as JSON."""
    return value if value is None or isinstance(value, str) else orjson.dumps(value, default=as_json).decode()


def as_json(value: object) -> str:
    """What JSON has no form for: bytes in base64, all else (a decimal, a duration …) as Python writes it."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def table_of(rows: list[dict[str, object]]) -> pa.Table:
    """With each key as a column, in the order of their first appearance; what a row lacks is null."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: column_of([row.get(name) for row in rows]) for name in names})
