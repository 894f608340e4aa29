"""The SQLite database: its schema, and how each process opens it."""

from __future__ import annotations

import contextlib
import fcntl
import sqlite3
from collections.abc import Generator
from pathlib import Path

SCHEMA_VERSION = 1
BUSY_SECONDS = 10.0
"""Another process's transaction takes milliseconds"""

SCHEMA = """
CREATE TABLE files (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    purpose TEXT NOT NULL,
    filename TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER
);
CREATE INDEX files_of_owner ON files (owner, seq);
CREATE TABLE batches (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    status TEXT NOT NULL,
    input_file_id TEXT NOT NULL,
    metadata TEXT NOT NULL,
    output_expires_seconds INTEGER,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    model TEXT,
    errors TEXT NOT NULL,
    total INTEGER NOT NULL,
    progress TEXT NOT NULL,
    output_file_id TEXT NOT NULL,
    error_file_id TEXT NOT NULL,
    has_output INTEGER NOT NULL,
    has_errors INTEGER NOT NULL,
    in_progress_at INTEGER,
    finalizing_at INTEGER,
    completed_at INTEGER,
    failed_at INTEGER,
    expired_at INTEGER,
    cancelling_at INTEGER,
    cancelled_at INTEGER
);
CREATE INDEX batches_of_owner ON batches (owner, seq);
CREATE INDEX open_batches ON batches (seq)
    WHERE status IN ('validating', 'in_progress', 'finalizing', 'cancelling');
"""


def connect(path: Path) -> sqlite3.Connection:
    """Open it, and make it where it is not there yet. Raises sqlite3.Error or OSError.

    A transaction is on the disk once it is committed (synchronous=FULL).
    """
    with alone(path.with_suffix(".lock")):  # SQLite does not wait for its turn when it changes to WAL
        database = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            database.row_factory = sqlite3.Row
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            set_up(database)
        except BaseException:
            database.close()
            raise
        return database


def set_up(database: sqlite3.Connection) -> None:
    [version] = database.execute("PRAGMA user_version").fetchone()
    if version == SCHEMA_VERSION:
        return
    if version:
        raise sqlite3.DatabaseError(f"it is of another version of this server (schema {version})")
    database.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")


@contextlib.contextmanager
def transaction(database: sqlite3.Connection) -> Generator[None]:
    """All of the block, or nothing."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # the disk is full: SQLite has done it already
            database.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def alone(path: Path) -> Generator[None]:
    """Hold a file's lock for the block: one process at a time. The kernel takes it from a process that dies."""
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
