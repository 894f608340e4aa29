"""Pieces of rows → what is to be embedded of them, and which columns are kept."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embedway.errors import InvalidSetting, InvalidType, RequestError
from embedway.files.reading import IMAGE_COLUMN, Source
from embedway.files.rows import BadRow, Piece
from embedway.inputs.item_objects import check_text

Item: TypeAlias = "str | dict[str, str]"
"""A text, or an object with an image: as `input` has them"""


@dataclass(frozen=True, slots=True)
class Columns:
    """What the user says of columns; None: by default, where it is there."""

    text: str
    key: str | None
    kept: tuple[str, ...] | None
    """None: all"""
    vector: str
    """The one to be added"""


DEFAULT_KEY = "id"


@dataclass(frozen=True, slots=True)
class Work:
    """A piece's rows that may have vectors."""

    piece: Piece
    items: list[Item]
    kept: pa.Table
    """Key and other columns of these rows"""
    rows: npt.NDArray[np.int64]
    """int64 [n]: their numbers"""
    bad: tuple[BadRow, ...]
    """The piece's others"""
    is_numbered: bool
    """None of the piece's rows has a key of its own"""


def work_of(piece: Piece, source: Source, columns: Columns, *, is_alone: bool, is_first: bool = False) -> Work:
    """`is_alone`: there is no other source; `is_first`: this is the first piece of all. Raises InvalidSetting where
    there are no such columns: of JSON, whose rows may differ in them, in the first piece only.
    """
    table = piece.table
    column = IMAGE_COLUMN if source.format == "images" else columns.text
    if column not in table.column_names:
        if len(table):
            raise InvalidSetting(setting="--text-column", problem=_has_no(source, column, table))
        table = table.append_column(column, pa.array([], pa.string()))
    items: list[Item] = []
    good: list[int] = []
    bad = list(piece.bad)
    for i, value in enumerate(table.column(column).to_pylist()):
        item = item_of(value, column)
        if isinstance(item, RequestError):
            bad.append(BadRow(int(piece.rows[i]), item.message))
        else:
            items.append(item)
            good.append(i)
    is_whole = len(good) == len(table)
    chosen = table if is_whole else table.take(pa.array(good, pa.int64()))
    rows = piece.rows if is_whole else piece.rows[good]
    may_lack = source.format == "jsonl" and not (is_first and len(table))
    kept = _kept(chosen, rows, source, columns, is_alone=is_alone, may_lack=may_lack)
    is_numbered = columns.key is None and DEFAULT_KEY not in table.column_names
    return Work(piece, items, kept, rows, tuple(bad), is_numbered)


def item_of(value: object, column: str) -> Item | RequestError:
    if isinstance(value, bytes):
        return {"image": base64.b64encode(value).decode()}
    if not isinstance(value, str):
        got = "null" if value is None else type(value).__name__
        return InvalidType(param=column, expected="a text", got=got)
    try:
        check_text(value, column)
    except RequestError as error:
        return error
    return value


def _kept(
    table: pa.Table,
    rows: npt.NDArray[np.int64],
    source: Source,
    columns: Columns,
    *,
    is_alone: bool,
    may_lack: bool,
) -> pa.Table:
    """`may_lack`: columns that were asked for need not be there."""
    if source.format == "images":
        table = table.drop_columns(IMAGE_COLUMN)
    key = columns.key or DEFAULT_KEY
    if key not in table.column_names:
        if columns.key is not None and not may_lack:
            raise InvalidSetting(setting="--key-column", problem=_has_no(source, key, table))
        table = table.add_column(0, key, _keys(rows, source, columns, is_alone))
    if columns.kept is not None:
        missing = [name for name in columns.kept if name not in table.column_names]
        if missing and not may_lack:
            raise InvalidSetting(setting="--columns", problem=_has_no(source, missing[0], table))
        table = table.select([name for name in table.column_names if name == key or name in columns.kept])
    if columns.vector in table.column_names:
        problem = (
            f"{source.name} has a column {columns.vector!r} already: give the vectors another name, or choose --columns"
        )
        raise InvalidSetting(setting="--vector-column", problem=problem)
    return table


def _has_no(source: Source, name: str, table: pa.Table) -> str:
    where = f" in its first {len(table)} rows" if source.format == "jsonl" else ""
    return f"{source.name} has no column {name!r}{where}; it has: {', '.join(table.column_names)}"


def _keys(rows: npt.NDArray[np.int64], source: Source, columns: Columns, is_alone: bool) -> pa.Array:
    """Of rows that have none."""
    if columns.key is not None:
        return pa.nulls(len(rows))
    return pa.array(rows) if is_alone else pa.array([f"{source.name}:{row}" for row in rows], pa.string())
