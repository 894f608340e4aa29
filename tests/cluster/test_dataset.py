"""Ray Data on a small cluster: every row once, with its own vector, also where an actor dies."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedway import Embedder
from embedway.config import DEFAULT_MODEL

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
pytestmark = pytest.mark.filterwarnings("ignore")

TEXTS = [f"the text of number {i}" for i in range(200)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    import ray

    ray.init(
        num_cpus=3,
        object_store_memory=80 << 20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


@pytest.mark.usefixtures("cluster")
def test_every_row_has_its_vector_though_an_actor_is_killed(tmp_path: Path) -> None:
    import ray

    from embedway.cluster import embed_dataset

    pq.write_table(pa.table({"id": range(len(TEXTS)), "text": TEXTS}), tmp_path / "in.parquet", row_group_size=20)
    once = tmp_path / "killed"

    def kill_once(batch: Any) -> Any:
        """As the third block goes by."""
        if 50 in batch["id"] and not once.exists():
            once.touch()
            for process in psutil.process_iter():
                if is_actor(process):
                    os.kill(process.pid, signal.SIGKILL)
        return batch

    def is_actor(process: psutil.Process) -> bool:
        try:
            return "ray::MapWorker" in " ".join(process.cmdline())
        except psutil.Error:
            return False

    dataset = ray.data.read_parquet(str(tmp_path / "in.parquet")).repartition(10).map_batches(kill_once, batch_size=20)
    embedded = embed_dataset(dataset, DEFAULT_MODEL, actors=1, batch_size=20, truncate="end")
    embedded.write_parquet(str(tmp_path / "out"))
    assert once.exists()
    rows = sorted(pq.read_table(tmp_path / "out").to_pylist(), key=lambda row: row["id"])
    assert [row["text"] for row in rows] == TEXTS
    expected = Embedder(threads=1).embed(TEXTS)
    found = np.array([row["embedding"] for row in rows], np.float32)
    assert (found * expected).sum(axis=1).min() > 0.999
    assert {row["embedding_error"] for row in rows} == {None}


@pytest.mark.usefixtures("cluster")
def test_a_row_that_cannot_be_embedded_says_why_and_ends_nothing() -> None:
    import ray

    from embedway.cluster import embed_dataset

    table = pa.table({"id": range(5), "text": ["good", None, " ", "word " * 2000, "good, too"]})
    rows = embed_dataset(ray.data.from_arrow(table), DEFAULT_MODEL, dimensions=None, output_dtype="int8").take_all()
    rows = sorted(rows, key=lambda row: row["id"])
    assert [len(row["embedding"]) if row["embedding"] is not None else None for row in rows] == [384, *[None] * 3, 384]
    reasons = [None, "must be a text", "only whitespace", "at most 256 tokens", None]
    for row, reason in zip(rows, reasons, strict=True):
        assert row["embedding_error"] is None if reason is None else reason in row["embedding_error"]
    with pytest.raises(Exception, match="row 1 of a batch of 5 has no vector: 'text' must be a text"):
        embed_dataset(ray.data.from_arrow(table), DEFAULT_MODEL, fail_fast=True).take_all()


JOB = """
import logging, sys, time
from pathlib import Path
import ray
from ray.data.checkpoint import CheckpointConfig
from embedway.cluster import embed_dataset
from embedway.config import DEFAULT_MODEL

folder = Path(sys.argv[1])
ray.init(num_cpus=3, object_store_memory=80 << 20, include_dashboard=False, log_to_driver=False)
context = ray.data.DataContext.get_current()
context.checkpoint_config = CheckpointConfig("id", str(folder / "checkpoints"), delete_checkpoint_on_success=False)

def wait_for_the_gate(batch):
    while max(batch["id"]) >= 100 and not (folder / "gate").exists():
        time.sleep(0.05)
    with (folder / "embedded").open("a") as file:
        file.write("".join(f"{i}\\n" for i in batch["id"]))
    return batch

rows = ray.data.read_parquet(str(folder / "in"), override_num_blocks=10)
rows = rows.repartition(10).map_batches(wait_for_the_gate, batch_size=None, num_cpus=0.1)
embed_dataset(rows, DEFAULT_MODEL, batch_size=20).write_parquet(str(folder / "out"))
"""
"""What is behind the hundredth row waits for a gate, so that the job is killed with some blocks written"""


def test_a_job_that_was_killed_goes_on_from_its_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for first in range(0, 200, 20):
        part = pa.table({"id": range(first, first + 20), "text": TEXTS[first : first + 20]})
        pq.write_table(part, tmp_path / "in" / f"{first:03}.parquet")
    command = [sys.executable, "-c", JOB, str(tmp_path)]
    killed = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "checkpoints").glob("*.parquet")):
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    checkpoints = [pq.read_table(path) for path in (tmp_path / "checkpoints").glob("*.parquet")]
    written = set(pa.concat_tables(checkpoints)["id"].to_pylist())
    assert written
    assert len(written) < len(TEXTS)
    (tmp_path / "embedded").unlink()
    (tmp_path / "gate").touch()
    subprocess.run(command, check=True, timeout=120)
    rows = pq.read_table(tmp_path / "out").to_pylist()
    assert sorted(row["id"] for row in rows) == list(range(len(TEXTS)))
    assert not any(row["embedding"] is None for row in rows)
    again = {int(line) for line in (tmp_path / "embedded").read_text().split()}
    assert again == set(range(len(TEXTS))) - written
