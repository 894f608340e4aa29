"""Ray Data on a small cluster: every row once, with its own vector, also where an actor dies."""

from __future__ import annotations

import logging
import os
import signal
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
