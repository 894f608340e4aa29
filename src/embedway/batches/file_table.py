"""The table of files: SQL, and nothing else. Whose a file is, is part of each question."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from embedway.batches.records import FileRecord
from embedway.batches.states import OPEN_IN_SQL
from embedway.errors import RequestError, UnknownFile

_COLUMNS = ", ".join(FileRecord.__struct_fields__)


class Page(NamedTuple):
    """Which part of a list is asked for."""

    limit: int
    after: str | None = None
    """The id of the last one that was seen"""
    is_ascending: bool = False


def add(database: sqlite3.Connection, file: FileRecord) -> None:
    places = ", ".join(f":{name}" for name in FileRecord.__struct_fields__)
    values = {name: getattr(file, name) for name in FileRecord.__struct_fields__}
    database.execute(f"INSERT INTO files ({_COLUMNS}) VALUES ({places})", values)


def find(database: sqlite3.Connection, owner: str, file_id: str, now: float) -> FileRecord:
    """Raises UnknownFile: there is none, it is another's, or its time is over."""
    row = database.execute(
        f"SELECT {_COLUMNS} FROM files WHERE id = ? AND owner = ? AND (expires_at IS NULL OR expires_at > ?)",
        (file_id, owner, now),
    ).fetchone()
    if row is None:
        raise UnknownFile(id=file_id)
    return FileRecord(*row)


def page(database: sqlite3.Connection, owner: str, page: Page, purpose: str | None, now: float) -> list[FileRecord]:
    """One more than the page has, where there are more. Raises UnknownFile for an `after` that is none."""
    order, beyond = ("ASC", ">") if page.is_ascending else ("DESC", "<")
    start = place_of(database, "files", owner, page.after, UnknownFile)
    rows = database.execute(
        f"SELECT {_COLUMNS} FROM files WHERE owner = :owner AND (:start IS NULL OR seq {beyond} :start)"
        " AND (:purpose IS NULL OR purpose = :purpose) AND (expires_at IS NULL OR expires_at > :now)"
        f" ORDER BY seq {order} LIMIT :limit",
        {"owner": owner, "start": start, "purpose": purpose, "now": now, "limit": page.limit + 1},
    )
    return [FileRecord(*row) for row in rows]


def place_of(
    database: sqlite3.Connection, table: str, owner: str, row_id: str | None, unknown: type[RequestError]
) -> int | None:
    """Where one of an owner's rows stands in the order of a table; None for None. Raises `unknown`: there is none."""
    if row_id is None:
        return None
    row = database.execute(f"SELECT seq FROM {table} WHERE id = ? AND owner = ?", (row_id, owner)).fetchone()
    if row is None:
        raise unknown(id=row_id)
    return row[0]


def stored_bytes(database: sqlite3.Connection) -> int:
    return database.execute("SELECT coalesce(sum(bytes), 0) FROM files").fetchone()[0]


def user_of(database: sqlite3.Connection, file_id: str) -> str | None:
    """The batch that still reads it; None: nobody does."""
    row = database.execute(
        f"SELECT id FROM batches WHERE input_file_id = ? AND status IN ({OPEN_IN_SQL})",
        (file_id,),
    ).fetchone()
    return None if row is None else row[0]


def remove(database: sqlite3.Connection, file_id: str) -> None:
    database.execute("DELETE FROM files WHERE id = ?", (file_id,))


def expired(database: sqlite3.Connection, now: float) -> list[str]:
    """Those whose time is over and that no batch reads any more."""
    rows = database.execute(
        "SELECT id FROM files WHERE expires_at <= ? AND id NOT IN"
        f" (SELECT input_file_id FROM batches WHERE status IN ({OPEN_IN_SQL}))",
        (now,),
    )
    return [row[0] for row in rows]


def known_names(database: sqlite3.Connection) -> set[str]:
    """All that may lie in the folder: files, and what open batches write."""
    rows = database.execute(
        f"SELECT id FROM files UNION SELECT output_file_id FROM batches WHERE status IN ({OPEN_IN_SQL})"
        f" UNION SELECT error_file_id FROM batches WHERE status IN ({OPEN_IN_SQL})"
        f" UNION SELECT id FROM batches WHERE status IN ({OPEN_IN_SQL})"
    )
    return {row[0] for row in rows}
