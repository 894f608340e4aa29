"""A batch is worked off once: whatever ends the process, no request is missing afterwards, and none is there twice."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from embedway.batches import batch_table, file_folder, file_table, outputs, run
from embedway.batches.outputs import Outputs
from embedway.batches.records import BatchRecord, Progress
from embedway.batches.results import Answer, Result
from embedway.batches.run import run_batch
from embedway.batches.storage import Storage
from embedway.errors import StorageFull, UnknownFile
from stored_batches import (
    NOW,
    add_batch,
    add_validated_batch,
    batch_now,
    file_bytes,
    jsonl,
    new_batch,
    read_jsonl,
    request_line,
    storage_in,
)

LINES = [request_line(str(i), f"text {i}") for i in range(100)]


async def echo(body: bytes) -> Answer:
    """The body comes back in two pieces; a request whose number ends in 7 is refused."""
    await asyncio.sleep(0)
    status = 400 if json.loads(body)["input"].endswith("7") else 200
    return Answer(status, "id", [body[:5], body[5:]], tokens=2)


async def never(body: bytes) -> Answer:
    await asyncio.Event().wait()
    raise AssertionError


async def work_off(
    storage: Storage, batch: BatchRecord, answer: run.AnswerLine = echo, now: Callable[[], float] = lambda: NOW
) -> list[bool]:
    """What was told of each request."""
    told: list[bool] = []
    await run_batch(storage, batch, answer, on_result=told.append, clock=now)
    return told


def written(storage: Storage, batch: BatchRecord) -> tuple[list[Any], list[Any]]:
    """The lines of the output and of the error file; none where there is no file."""
    lines = []
    for name in (batch.output_file_id, batch.error_file_id):
        path = storage.files.path(name)
        lines.append(read_jsonl(path.read_bytes()) if path.exists() else [])
    return lines[0], lines[1]


def ids(lines: list[Any]) -> list[str]:
    return [line["custom_id"] for line in lines]


def check_all_are_there_once(output: list[Any], errors: list[Any]) -> None:
    assert ids(output) == [str(i) for i in range(100) if i % 10 != 7]
    assert ids(errors) == [str(i) for i in range(7, 100, 10)]


async def test_each_request_s_answer_is_written_in_its_place(tmp_path: Path) -> None:
    async with storage_in(tmp_path) as storage:
        batch = await add_validated_batch(storage, LINES)
        told = await work_off(storage, batch)
        after = await batch_now(storage, batch.id)
        output, errors = written(storage, batch)
        assert not storage.files.path(batch.id).exists()
    check_all_are_there_once(output, errors)
    assert told.count(True) == 90
    assert told.count(False) == 10
    assert output[3].pop("id").startswith("batch_req_")
    body = {"model": "m", "input": "text 3"}
    assert output[3] == {
        "custom_id": "3",
        "response": {"status_code": 200, "request_id": "id", "body": body},
        "error": None,
    }
    assert errors[0]["response"]["status_code"] == 400
    assert after.status == "completed"
    assert (after.progress.completed, after.progress.failed, after.progress.input_tokens) == (90, 10, 200)
    assert after.finalizing_at == after.completed_at == NOW


async def test_a_file_with_nothing_in_it_is_not_there(tmp_path: Path) -> None:
    async with storage_in(tmp_path) as storage:
        batch = await add_validated_batch(storage, LINES[:3])
        await work_off(storage, batch)
        after = await batch_now(storage, batch.id)
        assert (after.has_output, after.has_errors) == (True, False)
        assert not storage.files.path(batch.error_file_id).exists()


class Killed(BaseException):
    """The process is gone: nothing is tidied up."""


@pytest.mark.parametrize("kills_at", range(12))
async def test_a_process_that_dies_between_any_two_steps_leaves_what_another_completes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills_at: int
) -> None:
    """A step is a write into a file or a transaction; each of them is committed as soon as there is an answer."""
    monkeypatch.setattr(run, "COMMIT_SECONDS", 0.0)
    num_steps = 0

    def step() -> None:
        nonlocal num_steps
        num_steps += 1
        if num_steps == kills_at + 1:
            raise Killed

    def dying(act: Callable[..., Any]) -> Callable[..., Any]:
        def acts(*arguments: Any, **named: Any) -> Any:
            step()
            return act(*arguments, **named)

        return acts

    async with storage_in(tmp_path) as storage:
        batch = await add_validated_batch(storage, LINES)
        with monkeypatch.context() as patched:
            patched.setattr(outputs, "write_all", dying(file_folder.write_all))
            patched.setattr(batch_table, "save_progress", dying(batch_table.save_progress))
            with pytest.raises(Killed):
                await work_off(storage, batch)
        left = await batch_now(storage, batch.id)
        assert left.status == "in_progress"
        with pytest.raises(UnknownFile):
            await storage.query(lambda database: file_table.find(database, "", batch.output_file_id, NOW))
        await work_off(storage, left)
        after = await batch_now(storage, batch.id)
        output, errors = written(storage, batch)
    check_all_are_there_once(output, errors)
    assert after.status == "completed"
    assert (after.progress.completed, after.progress.failed) == (90, 10)


async def test_half_a_line_that_a_full_disk_left_is_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with storage_in(tmp_path) as storage:
        batch = await add_validated_batch(storage, LINES)

        def fill(file: Any, data: bytes) -> None:
            file.write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(outputs, "write_all", fill)
            with pytest.raises(StorageFull, match="disk is full"):
                await work_off(storage, batch)
        assert file_bytes(storage, batch.output_file_id)
        await work_off(storage, await batch_now(storage, batch.id))
        check_all_are_there_once(*written(storage, batch))


def test_a_write_that_failed_can_be_done_again_by_the_same_process(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    batch = new_batch("file-1")
    files = Outputs(storage.files, batch)
    files.write([Result((b"one\n",), True, 1)])
    with storage.files.path(batch.output_file_id).open("ab") as half:
        half.write(b"tw")
    files.write([Result((b"t", b"wo\n"), True, 2), Result((b"no\n",), False, 3)])
    files.close()
    storage.close()
    assert file_bytes(storage, batch.output_file_id) == b"one\ntwo\n"
    assert files.progress == Progress(3, 8, 3, completed=2, failed=1)


async def test_a_cancelled_batch_keeps_what_was_done_and_says_what_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "COMMIT_SECONDS", 0.0)
    async with storage_in(tmp_path) as storage:
        batch = await add_validated_batch(storage, LINES)

        async def until_40(body: bytes) -> Answer:
            if json.loads(body)["input"] == "text 40":
                await storage.query(lambda database: batch_table.cancel(database, "", batch.id, NOW + 1))
                await never(body)
            return await echo(body)

        await work_off(storage, batch, until_40)
        after = await batch_now(storage, batch.id)
        output, errors = written(storage, batch)
    assert after.status == "cancelled"
    assert sorted(ids(output) + ids(errors), key=int) == [str(i) for i in range(100)]
    assert set(ids(output)) >= {str(i) for i in range(40) if i % 10 != 7}
    undone = [line for line in errors if line["response"] is None]
    assert {line["error"]["code"] for line in undone} == {"batch_cancelled"}
    assert "40" in ids(undone)
    assert "99" in ids(undone)
    assert after.progress.completed + after.progress.failed == 100


async def test_what_is_not_done_when_the_window_ends_has_expired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "COMMIT_SECONDS", 0.0)
    now = NOW
    async with storage_in(tmp_path) as storage:
        batch = await add_validated_batch(storage, LINES)

        async def until_40(body: bytes) -> Answer:
            nonlocal now
            if json.loads(body)["input"] == "text 40":
                now = batch.expires_at
                await never(body)
            return await echo(body)

        await work_off(storage, batch, until_40, lambda: now)
        after = await batch_now(storage, batch.id)
        output, errors = written(storage, batch)
    assert (after.status, after.expired_at) == ("expired", batch.expires_at)
    assert {line["error"]["code"] for line in errors if line["response"] is None} == {"batch_expired"}
    assert sorted(ids(output) + ids(errors), key=int) == [str(i) for i in range(100)]


async def test_no_more_runs_at_once_than_may(tmp_path: Path) -> None:
    running = most = 0

    async def counted(body: bytes) -> Answer:
        nonlocal running, most
        running += len(json.loads(body)["input"])
        most = max(most, running)
        for _ in range(200):  # others begin meanwhile, as many as may
            await asyncio.sleep(0)
        running -= len(json.loads(body)["input"])
        return Answer(200, "id", [b"{}"])

    async with storage_in(tmp_path) as storage:
        batch = await add_validated_batch(storage, [request_line(str(i), ["a"]) for i in range(100)])
        await work_off(storage, batch, counted)
        assert 1 < most <= run.MAX_REQUESTS
        most, texts = 0, ["a"] * (run.MAX_INPUTS // 3)
        batch = await add_validated_batch(storage, [request_line("0", texts)])
        assert len(texts) < run.MAX_INPUTS
        await work_off(storage, batch, counted)
    assert most == len(texts)


async def test_a_batch_that_was_cancelled_before_it_was_looked_at_has_no_files(tmp_path: Path) -> None:
    async with storage_in(tmp_path) as storage:
        batch = await add_batch(storage, jsonl(LINES))
        await storage.query(lambda database: batch_table.cancel(database, "", batch.id, NOW))
        await work_off(storage, await batch_now(storage, batch.id), never)
        after = await batch_now(storage, batch.id)
    assert (after.status, after.has_output, after.has_errors) == ("cancelled", False, False)


async def test_what_died_between_finalizing_and_completed_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with storage_in(tmp_path) as storage:
        batch = await add_validated_batch(storage, LINES[:5])

        def killed(*_: Any) -> None:
            raise Killed

        with monkeypatch.context() as patched:
            patched.setattr(batch_table, "end", killed)
            with pytest.raises(Killed):
                await work_off(storage, batch)
        left = await batch_now(storage, batch.id)
        assert left.status == "finalizing"
        await work_off(storage, left, never, lambda: left.expires_at + 1)
        after = await batch_now(storage, batch.id)
        output, _ = written(storage, batch)
    assert after.status == "completed"
    assert len(output) == 5
