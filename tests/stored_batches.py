"""Batches on a disk, without a server: a storage in a folder, files of requests, and a batch in any state."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, Iterable, Sequence
from pathlib import Path
from typing import Any

from embedway.batches import batch_table, file_table
from embedway.batches.records import WINDOW_SECONDS, BatchRecord, FileRecord, Limits, new_batch_id, new_file_id
from embedway.batches.storage import Storage
from embedway.batches.validation import Report, validate

LIMITS = Limits(file_bytes=2**20, line_bytes=2**16, requests=1000, inputs=1000, stored_bytes=2**30)
NOW = 1_800_000_000


def request_line(custom_id: str, text: Any = "a", model: str = "m") -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/embeddings", "body": {"model": model, "input": text}}


def jsonl(lines: Iterable[object]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def read_jsonl(data: bytes) -> list[Any]:
    return [json.loads(line) for line in data.splitlines()]


@contextlib.asynccontextmanager
async def storage_in(folder: Path) -> AsyncGenerator[Storage]:
    storage = Storage(folder)
    try:
        yield storage
    finally:
        storage.close()


async def add_file(storage: Storage, data: bytes, owner: str = "", expires_at: int | None = None) -> FileRecord:
    file = FileRecord(new_file_id(), owner, "batch", "in.jsonl", len(data), NOW, expires_at)
    with storage.files.create(file.id) as raw:
        raw.write(data)
    await storage.query(lambda database: file_table.add(database, file))
    return file


def new_batch(input_file_id: str, owner: str = "") -> BatchRecord:
    return BatchRecord(
        id=new_batch_id(),
        owner=owner,
        status="validating",
        input_file_id=input_file_id,
        metadata=None,
        output_expires_seconds=None,
        created_at=NOW,
        expires_at=NOW + WINDOW_SECONDS,
        output_file_id=new_file_id(),
        error_file_id=new_file_id(),
    )


async def add_batch(storage: Storage, data: bytes, owner: str = "") -> BatchRecord:
    """One that nobody has looked at yet."""
    batch = new_batch((await add_file(storage, data, owner)).id, owner)
    await storage.query(lambda database: batch_table.add(database, batch))
    return batch


async def add_validated_batch(storage: Storage, lines: Sequence[object], owner: str = "") -> BatchRecord:
    """One that is in progress, and of which nothing is done."""
    batch = await add_batch(storage, jsonl(lines), owner)
    report = index_of(storage, batch)
    columns = {"model": report.model, "total": report.requests}
    assert await storage.query(lambda db: batch_table.become(db, batch.id, "in_progress", NOW, **columns))
    return await batch_now(storage, batch.id)


def index_of(storage: Storage, batch: BatchRecord) -> Report:
    files = storage.files
    with files.path(batch.input_file_id).open("rb") as requests, files.path(batch.id).open("wb") as index:
        report = validate(requests, index, LIMITS)
    assert not report.errors
    return report


async def batch_now(storage: Storage, batch_id: str) -> BatchRecord:
    batch = await storage.query(lambda database: batch_table.get(database, batch_id))
    assert batch is not None
    return batch


def file_bytes(storage: Storage, name: str) -> bytes:
    return storage.files.path(name).read_bytes()
