"""Which batch runs when, and who runs it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedway.batches import file_table, runner
from embedway.batches.records import OpenBatch
from embedway.batches.results import Answer
from embedway.batches.runner import MAX_RUNNING, Runner, due, sweep, try_lock
from embedway.batches.states import OPEN
from embedway.batches.storage import Storage
from embedway.batches.validator import ValidatorLost
from stored_batches import (
    LIMITS,
    NOW,
    add_batch,
    add_file,
    add_validated_batch,
    batch_now,
    jsonl,
    request_line,
    storage_in,
)

batches = st.lists(
    st.builds(
        OpenBatch,
        id=st.uuids().map(str),
        owner=st.sampled_from("abc"),
        status=st.sampled_from(OPEN),
        expires_at=st.just(0),
    ),
    max_size=12,
)


@settings(max_examples=50)
@given(batches, batches)
def test_no_more_runs_than_may_and_nobody_waits_for_whom_has_more(
    waiting: list[OpenBatch], running: list[OpenBatch]
) -> None:
    begun = due(waiting, running)
    assert len({batch.id for batch in begun}) == len(begun)
    assert {batch.id for batch in begun} <= {batch.id for batch in waiting}
    now = [*running, *begun]
    runs = [batch for batch in now if batch.status in ("in_progress", "finalizing")]
    assert len(runs) <= max(MAX_RUNNING, sum(batch.status in ("in_progress", "finalizing") for batch in running))
    left = [batch for batch in waiting if batch not in begun]
    assert not any(batch.status == "cancelling" for batch in left)
    if any(batch.status == "validating" for batch in left):
        assert any(batch.status == "validating" for batch in now)
    for batch in left:
        if batch.status in ("in_progress", "finalizing"):
            assert len(runs) >= MAX_RUNNING
            own = sum(one.owner == batch.owner for one in runs)
            begun_for = {one.owner for one in begun if one in runs}
            assert all(sum(one.owner == owner for one in runs) <= own + 1 for owner in begun_for)


async def yes(owner: str, body: bytes) -> Answer:
    del owner, body
    return Answer(200, "id", [b"{}"])


@contextlib.asynccontextmanager
async def running(storage: Storage, **changes: Any) -> AsyncGenerator[Runner]:
    values: dict[str, Any] = {
        "answer": yes,
        "model_problem": lambda _: None,
        "may_run": lambda _: True,
        "on_result": lambda _: None,
        "clock": lambda: NOW,
    }
    runs = Runner(storage, LIMITS, **{**values, **changes})
    task = asyncio.create_task(runs.run())
    try:
        yield runs
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(holds: Callable[[], Any]) -> None:
    async def poll() -> None:
        while not await holds():
            await asyncio.sleep(0.01)

    await asyncio.wait_for(poll(), 60)


async def has_ended(storage: Storage, batch_id: str) -> bool:
    return not (await batch_now(storage, batch_id)).is_open


async def test_a_batch_goes_its_whole_way(tmp_path: Path) -> None:
    async with storage_in(tmp_path) as storage:
        good = await add_batch(storage, jsonl([request_line("a"), request_line("b")]))
        bad = await add_batch(storage, b"{")
        unknown = await add_batch(storage, jsonl([request_line("a", model="nobody")]))
        async with running(storage, model_problem=lambda name: "no" if name == "nobody" else None):
            for batch in (good, bad, unknown):
                await until(lambda batch=batch: has_ended(storage, batch.id))
        after = [await batch_now(storage, batch.id) for batch in (good, bad, unknown)]
    assert [batch.status for batch in after] == ["completed", "failed", "failed"]
    assert (after[0].total, after[0].model, after[0].progress.completed) == (2, "m", 2)
    assert [error.code for error in after[1].errors] == ["invalid_json_line"]
    assert [error.code for error in after[2].errors] == ["model_not_found"]
    assert not (tmp_path / "files" / bad.id).exists()


async def test_a_batch_of_a_key_that_was_withdrawn_waits_and_then_expires(tmp_path: Path) -> None:
    now = NOW
    async with storage_in(tmp_path) as storage:
        theirs = await add_validated_batch(storage, [request_line("a")], owner="gone")
        ours = await add_validated_batch(storage, [request_line("a")], owner="here")
        async with running(storage, may_run=lambda owner: owner == "here", clock=lambda: now) as runs:
            await until(lambda: has_ended(storage, ours.id))
            assert (await batch_now(storage, theirs.id)).status == "in_progress"
            now = theirs.expires_at
            runs.woken.set()
            await until(lambda: has_ended(storage, theirs.id))
        after = await batch_now(storage, theirs.id)
    assert (after.status, after.progress.failed) == ("expired", 1)


async def test_a_file_whose_validator_dies_each_time_fails_its_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(*_: Any) -> None:
        raise ValidatorLost("killed")

    monkeypatch.setattr(runner, "validated", lost)
    monkeypatch.setattr(runner, "PAUSE_SECONDS", 0.0)
    async with storage_in(tmp_path) as storage:
        batch = await add_batch(storage, jsonl([request_line("a")]))
        async with running(storage):
            await until(lambda: has_ended(storage, batch.id))
        after = await batch_now(storage, batch.id)
    assert (after.status, [error.code for error in after.errors]) == ("failed", ["internal_error"])


HOLDER = """
import sys
from pathlib import Path
from embedway.batches.runner import try_lock
from embedway.batches.storage import Storage
lock = try_lock(Storage(Path(sys.argv[1])))
print(lock is not None, flush=True)
sys.stdin.read()
"""


def test_one_process_at_a_time_runs_batches_and_a_killed_one_makes_way(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"True\n"
        assert try_lock(storage) is None
        other.kill()
        other.wait()
    lock = try_lock(storage)
    assert lock is not None
    lock.close()
    storage.close()


async def test_the_sweeper_takes_what_is_over_and_what_nobody_knows_and_nothing_else(tmp_path: Path) -> None:
    async with storage_in(tmp_path) as storage:
        kept = await add_file(storage, b"kept", expires_at=NOW + 10)
        over = await add_file(storage, b"over", expires_at=NOW)
        batch = await add_validated_batch(storage, [request_line("a")])
        for name in ("file-lost", "file-fresh", batch.output_file_id):
            storage.files.create(name).close()
        for path in (tmp_path / "files").iterdir():
            if path.name != "file-fresh":
                os.utime(path, (time.time() - 7200, time.time() - 7200))
        await sweep(storage, NOW)
        left = {path.name for path in (tmp_path / "files").iterdir()}
        known = await storage.query(file_table.known_names)
    assert left == {kept.id, "file-fresh", batch.input_file_id, batch.output_file_id, batch.id}
    assert over.id not in known
