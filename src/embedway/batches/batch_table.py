"""The table of batches: SQL, and nothing else. Each change of state is one transaction with what belongs to it."""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec

from embedway.batches import file_table
from embedway.batches.database import transaction
from embedway.batches.file_table import Page, place_of
from embedway.batches.records import BatchError, BatchRecord, FileRecord, OpenBatch, Progress
from embedway.batches.states import OPEN_IN_SQL, Status, may_become, time_column
from embedway.errors import BatchHasEnded, UnknownBatch

_FIELDS = BatchRecord.__struct_fields__
_COLUMNS = ", ".join(_FIELDS)
_JSON = {"metadata": dict[str, str] | None, "errors": list[BatchError], "progress": Progress}
"""Columns that hold JSON"""


def add(database: sqlite3.Connection, batch: BatchRecord) -> None:
    values = {name: getattr(batch, name) for name in _FIELDS}
    values |= {name: _json(values[name]) for name in _JSON}
    places = ", ".join(f":{name}" for name in _FIELDS)
    database.execute(f"INSERT INTO batches ({_COLUMNS}) VALUES ({places})", values)


def find(database: sqlite3.Connection, owner: str, batch_id: str) -> BatchRecord:
    """Raises UnknownBatch: there is none, or it is another's."""
    batch = get(database, batch_id)
    if batch is None or batch.owner != owner:
        raise UnknownBatch(id=batch_id)
    return batch


def get(database: sqlite3.Connection, batch_id: str) -> BatchRecord | None:
    row = database.execute(f"SELECT {_COLUMNS} FROM batches WHERE id = ?", (batch_id,)).fetchone()
    return None if row is None else _record(row)


def page(database: sqlite3.Connection, owner: str, page: Page) -> list[BatchRecord]:
    """The newest first; one more than the page has, where there are more. Raises UnknownBatch for a wrong `after`."""
    start = place_of(database, "batches", owner, page.after, UnknownBatch)
    rows = database.execute(
        f"SELECT {_COLUMNS} FROM batches WHERE owner = :owner AND (:start IS NULL OR seq < :start)"
        " ORDER BY seq DESC LIMIT :limit",
        {"owner": owner, "start": start, "limit": page.limit + 1},
    )
    return [_record(row) for row in rows]


def open_batches(database: sqlite3.Connection) -> list[OpenBatch]:
    """The oldest first."""
    rows = database.execute(
        f"SELECT id, owner, status, expires_at FROM batches WHERE status IN ({OPEN_IN_SQL}) ORDER BY seq"
    )
    return [OpenBatch(*row) for row in rows]


def count_open(database: sqlite3.Connection, owner: str) -> int:
    return database.execute(
        f"SELECT count(*) FROM batches WHERE owner = ? AND status IN ({OPEN_IN_SQL})",
        (owner,),
    ).fetchone()[0]


def become(database: sqlite3.Connection, batch_id: str, status: Status, now: float, **columns: Any) -> bool:
    """Change a batch's state, and these columns with it; False where it may not come to be so from what it is."""
    columns = {name: _json(value) if name in _JSON else value for name, value in columns.items()}
    columns |= {"status": status, time_column(status): int(now)}
    assignments = ", ".join(f"{name} = :{name}" for name in columns)
    earlier = ", ".join(f"'{status}'" for status in may_become(status))
    changed = database.execute(
        f"UPDATE batches SET {assignments} WHERE id = :batch_id AND status IN ({earlier})",
        {**columns, "batch_id": batch_id},
    )
    return changed.rowcount == 1


def cancel(database: sqlite3.Connection, owner: str, batch_id: str, now: float) -> BatchRecord:
    """Raises UnknownBatch, or BatchHasEnded. One that is being cancelled is left as it is."""
    with transaction(database):
        batch = find(database, owner, batch_id)
        if batch.status in ("cancelling", "cancelled"):
            return batch
        if not become(database, batch_id, "cancelling", now):
            raise BatchHasEnded(id=batch_id, status=batch.status)
        return find(database, owner, batch_id)


def save_progress(database: sqlite3.Connection, batch_id: str, progress: Progress) -> Status:
    """Write down what is safe on the disk; tell the batch's state, which others may have changed."""
    with transaction(database):
        database.execute("UPDATE batches SET progress = ? WHERE id = ?", (_json(progress), batch_id))
        return status_of(database, batch_id)


def status_of(database: sqlite3.Connection, batch_id: str) -> Status:
    return database.execute("SELECT status FROM batches WHERE id = ?", (batch_id,)).fetchone()[0]


def end(database: sqlite3.Connection, batch_id: str, status: Status, now: float, files: list[FileRecord]) -> bool:
    """A batch's end, and its files, all at once: until then nobody sees them. False as with `become`."""
    with transaction(database):
        names = {file.id for file in files}
        batch = get(database, batch_id)
        assert batch is not None
        has_output, has_errors = batch.output_file_id in names, batch.error_file_id in names
        is_done = become(database, batch_id, status, now, has_output=has_output, has_errors=has_errors)
        for file in files if is_done else ():
            file_table.add(database, file)
        return is_done


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _record(row: sqlite3.Row) -> BatchRecord:
    values = dict(row)
    values |= {name: msgspec.json.decode(values[name], type=kind) for name, kind in _JSON.items()}
    values |= {name: bool(values[name]) for name in ("has_output", "has_errors")}
    return BatchRecord(**values)
