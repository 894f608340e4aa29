from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from embedway.engine.running_batch import RunningBatch, path_of, read_running

SCRIPT = """
import sys
from pathlib import Path
from embedway.engine.running_batch import RunningBatch

running = RunningBatch(Path(sys.argv[1]), 10)
running.open()
running.begin({1, 2})
running.end()
running.begin([5, 2**62, 7])
print("begun", flush=True)
sys.stdin.read()
"""


def test_what_a_killed_process_was_computing_can_be_read(tmp_path: Path) -> None:
    path = path_of(f"{tmp_path}/engine.sock", "a")
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
    assert read_running(path) == {5, 2**62, 7}


def test_nothing_runs_between_batches_nor_after_a_good_end(tmp_path: Path) -> None:
    path = tmp_path / "running"
    running = RunningBatch(path, 10)
    running.open()
    assert read_running(path) == frozenset()
    running.begin([3])
    running.end()
    assert read_running(path) == frozenset()
    running.begin([3])
    running.close()
    assert read_running(path) == frozenset()


def test_more_requests_than_there_is_room_for_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "running"
    running = RunningBatch(path, 3)
    running.open()
    running.begin([1, 2, 3, 4, 5])
    assert read_running(path) == {1, 2, 3}


def test_an_engine_works_where_its_file_cannot_be_written(tmp_path: Path) -> None:
    running = RunningBatch(tmp_path / "no" / "folder", 3)
    running.open()
    running.begin([1, 2])
    running.end()


def test_files_of_engines_that_were_lost_long_ago_are_removed(tmp_path: Path) -> None:
    address = f"{tmp_path}/engine-0.sock"
    old, lately, other = (
        path_of(a, b) for a, b in ((address, "a"), (address, "b"), (f"{tmp_path}/engine-1.sock", "c"))
    )
    for path in (old, lately, other):
        RunningBatch(path, 3).open()
    for path in (old, other):
        os.utime(path, (0, 0))
    RunningBatch(path_of(address, "d"), 3).open()
    assert not old.exists()
    assert lately.exists()
    assert other.exists()
