"""What is read: pieces of rows, in the order of the input, each with all that is needed to find it again."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
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


MAX_DEPTH = 32
"""Of lists and objects in a column: Parquet takes no more than 100 levels, three of them for a list"""


def column_of(values: list[object]) -> pa.Array:
    """Of the type that they have together; texts where they have none, or one that Parquet has not."""
    try:
        column = pa.array(values)
    except (pa.ArrowException, OverflowError):
        return texts_of(values)
    is_storable = all(depth <= MAX_DEPTH and not _is_empty_object(kind) for depth, kind in _types_in(column.type))
    return column if is_storable else texts_of(values)


def _types_in(kind: pa.DataType, depth: int = 0) -> Iterator[tuple[int, pa.DataType]]:
    """It and all below it, with their depths."""
    yield depth, kind
    for i in range(kind.num_fields):
        yield from _types_in(kind.field(i).type, depth + 1)


def _is_empty_object(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and not kind.num_fields


def texts_of(values: Iterable[object]) -> pa.Array:
    return pa.array(map(as_text, values), pa.string())


def as_text(value: object) -> str | None:
    """A text as it is, null as null, a moment or a number of many digits in its usual form, all else as JSON."""
    if value is None or isinstance(value, str):
        return value
    written = orjson.loads(encoded := orjson.dumps(value, default=as_json))
    return written if isinstance(written, str) else encoded.decode()


def as_json(value: object) -> str:
    """What JSON has no type for: bytes as base64, all else in its usual form."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def table_of(rows: list[dict[str, object]]) -> pa.Table:
    """With each key as a column, in the order of their first appearance; what a row lacks is null."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: column_of([row.get(name) for row in rows]) for name in names})
