"""The state machine, as the table keeps it: any order of events, and what must be true after each."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedway.batches import batch_table, file_table
from embedway.batches.database import connect
from embedway.batches.file_table import Page
from embedway.batches.records import BatchRecord, Progress
from embedway.batches.run import files_of
from embedway.batches.states import FOLLOWS, OPEN, STATUSES, Status, time_column
from embedway.errors import BatchHasEnded, UnknownBatch, UnknownFile
from stored_batches import NOW, new_batch


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    connection = connect(tmp_path_factory.mktemp("database") / "a.sqlite3")
    connection.execute("PRAGMA synchronous = OFF")  # some thousand transactions
    yield connection
    connection.close()


def now_of(database: sqlite3.Connection, batch: BatchRecord) -> BatchRecord:
    return batch_table.find(database, batch.owner, batch.id)


@settings(max_examples=50)
@given(st.lists(st.sampled_from([*STATUSES, "cancel"]), max_size=8))
def test_whatever_is_tried_only_what_may_follow_comes_about(database: sqlite3.Connection, events: list[str]) -> None:
    batch = new_batch("file-1")
    batch_table.add(database, batch)
    expected: list[Status] = ["validating"]
    for moment, event in enumerate(events, NOW + 1):
        if event == "cancel":
            try:
                after = batch_table.cancel(database, "", batch.id, moment).status
            except BatchHasEnded:
                assert "cancelling" not in (*FOLLOWS[expected[-1]], expected[-1])
            else:
                assert after in ("cancelling", "cancelled")
                expected += ["cancelling"] if expected[-1] != after else []
        else:
            status = next(status for status in STATUSES if status == event)
            changed = batch_table.become(database, batch.id, status, moment)
            assert changed == (status in FOLLOWS[expected[-1]])
            expected += [status] if changed else []
        found = now_of(database, batch)
        assert found.status == expected[-1]
        assert found.is_open == (found.status in OPEN)
        times = {status for status in STATUSES if getattr(found, time_column(status)) is not None}
        assert times == set(expected)
    is_listed = batch.id in {one.id for one in batch_table.open_batches(database)}
    assert is_listed == (expected[-1] in OPEN)


@settings(max_examples=20)
@given(st.sampled_from(["completed", "expired", "cancelled"]), st.integers(0, 5), st.integers(0, 5))
def test_a_batch_s_files_are_there_when_it_has_ended_and_not_before(
    database: sqlite3.Connection, status: Status, output_bytes: int, error_bytes: int
) -> None:
    batch = new_batch("file-1")
    batch_table.add(database, batch)
    batch_table.become(database, batch.id, "in_progress", NOW)
    batch_table.save_progress(database, batch.id, Progress(output_bytes=output_bytes, error_bytes=error_bytes))
    batch = now_of(database, batch)
    files = files_of(batch, NOW)
    for file_id in (batch.output_file_id, batch.error_file_id):
        with pytest.raises(UnknownFile):
            file_table.find(database, "", file_id, NOW)
    steps: dict[str, Status] = {"completed": "finalizing", "cancelled": "cancelling"}
    if status in steps:
        assert not batch_table.end(database, batch.id, status, NOW, files)
        batch_table.become(database, batch.id, steps[status], NOW)
    assert batch_table.end(database, batch.id, status, NOW, files)
    assert not batch_table.end(database, batch.id, status, NOW, files)
    ended = now_of(database, batch)
    assert (ended.has_output, ended.has_errors) == (output_bytes > 0, error_bytes > 0)
    assert [file_table.find(database, "", file.id, NOW) for file in files] == files


def test_an_owner_sees_his_own_and_pages_through_them(database: sqlite3.Connection) -> None:
    batches = [new_batch("file-1", "me") for _ in range(5)]
    for batch in batches:
        batch_table.add(database, batch)
    seen, after = [], None
    while page := batch_table.page(database, "me", Page(2, after)):
        seen += page[:2]
        after = seen[-1].id
    assert [batch.id for batch in seen] == [batch.id for batch in reversed(batches)]
    with pytest.raises(UnknownBatch):
        batch_table.find(database, "you", batches[0].id)
    with pytest.raises(UnknownBatch):
        batch_table.page(database, "you", Page(2, batches[0].id))
    with pytest.raises(UnknownBatch):
        batch_table.cancel(database, "you", batches[0].id, NOW)


def test_a_database_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "later.sqlite3"
    connection = connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(sqlite3.DatabaseError, match="another version"):
        connect(path)
