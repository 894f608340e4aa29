"""What goes wrong on the disk is one clear error, and over when the cause is."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

import pytest

from embedway.batches import file_table
from embedway.batches.storage import DATABASE_NAME, Storage, make_data_dir
from embedway.errors import BatchStorageFault, InvalidSetting, StorageFull
from stored_batches import add_file, storage_in


async def test_a_damaged_database_is_a_fault_until_it_is_put_right(tmp_path: Path) -> None:
    path = tmp_path / DATABASE_NAME
    async with storage_in(tmp_path) as storage:
        path.write_bytes(b"this is no database, and never was one. " * 200)
        for _ in range(2):
            with pytest.raises(BatchStorageFault) as fault:
                await storage.query(file_table.stored_bytes)
            assert str(tmp_path) not in fault.value.message
        path.unlink()
        assert await storage.query(file_table.stored_bytes) == 0


async def test_a_full_disk_is_named(tmp_path: Path) -> None:
    def fill() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with storage_in(tmp_path) as storage:
        with pytest.raises(StorageFull, match="disk is full"):
            await storage.on_disk(fill)
        await storage.query(lambda database: database.execute("PRAGMA max_page_count = 1").fetchone())
        with pytest.raises(StorageFull, match="disk is full"):
            await add_file(storage, b"a" * 10, owner="x" * 100_000)
        await add_file(storage, b"a", owner="x" * 100_000)  # by a new connection, which has no such limit


def test_nobody_else_may_look_into_a_folder_that_we_make(tmp_path: Path) -> None:
    make_data_dir(tmp_path / "data")
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    assert list((tmp_path / "data").iterdir()) == []
    make_data_dir(tmp_path / "data")


def test_a_folder_that_cannot_be_is_said_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidSetting, match="--data-dir"):
        make_data_dir(tmp_path / "file" / "data")


def test_a_file_s_name_is_never_a_path(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    with pytest.raises(AssertionError):
        storage.files.path("../a")
    storage.close()
