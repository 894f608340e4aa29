"""Ray Data on a small cluster: every row once, with its own vector, also where an actor or the job is killed."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer
from pyarrow.fs import FileSelector, FileSystem

from embedway import Embedder
from embedway.config import DEFAULT_MODEL
from embedway.errors import InvalidSetting

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


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"text_column": "body"}, "there is no column 'body'; there are: id, text"),
        ({"vector_column": "id"}, "there is a column 'id' already"),
        ({"prompt_name": "nobody's"}, "this model declares no prompts"),
    ],
)
def test_a_job_that_cannot_go_on_ends_and_says_why(options: dict[str, Any], sentence: str) -> None:
    import ray
    from ray.exceptions import RayError

    from embedway.cluster import embed_dataset

    rows = ray.data.from_items([{"id": 0, "text": "a cat"}, {"id": 1, "text": ""}])
    with pytest.raises(RayError, match=sentence):
        embed_dataset(rows, DEFAULT_MODEL, **options).materialize()


@pytest.mark.usefixtures("cluster")
def test_checkpoints_of_rows_in_memory_are_refused(tmp_path: Path) -> None:
    import ray
    from ray.data.checkpoint import CheckpointConfig

    from embedway.cluster import embed_dataset

    rows = ray.data.from_items([{"id": 0, "text": "a cat"}])
    with pytest.raises(InvalidSetting, match="rows in memory are not left out"):
        embed_dataset(rows, DEFAULT_MODEL, checkpoint=CheckpointConfig("id", str(tmp_path)))


@pytest.fixture(params=["disk", "S3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where a job reads and writes: a folder's URI."""
    if request.param == "disk":
        yield str(tmp_path)
        return
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="bucket")
    yield "s3://bucket/job"
    server.stop()


@pytest.mark.usefixtures("cluster")
def test_a_killed_job_goes_on_and_writes_each_row_once(place: str, tmp_path: Path) -> None:
    import ray

    system, root = FileSystem.from_uri(place)
    system.create_dir(f"{root}/in")
    for first in (0, 100):
        table = pa.table({"id": list(map(str, range(first, first + 100))), "text": TEXTS[first : first + 100]})
        pq.write_table(table, f"{root}/in/{first}.parquet", filesystem=system)
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}

    def run(seen: str, kill_at: int) -> int:
        job = [sys.executable, str(Path(__file__).with_name("dataset_job.py"))]
        places = [f"{place}/in", f"{place}/out", f"{place}/checkpoints", str(tmp_path / seen)]
        return subprocess.run([*job, *places, str(kill_at)], env=environment, check=False, timeout=300).returncode

    def ids_in(folder: str) -> list[str]:
        files = system.get_file_info(FileSelector(f"{root}/{folder}", recursive=True))
        paths = [file.path for file in files if file.is_file and ".pending" not in file.base_name]
        tables = [pq.read_table(path, filesystem=system, columns=["id"]) for path in paths]
        return [row for table in tables for row in table.column("id").to_pylist()]

    assert run("first", kill_at=3) == -signal.SIGKILL
    done = ids_in("checkpoints")
    assert 60 <= len(done) < len(TEXTS)
    assert run("second", kill_at=1000) == 0
    again = (tmp_path / "second").read_text().split()
    assert not set(done) & set(again)
    assert sorted(ids_in("out")) == sorted(map(str, range(len(TEXTS))))


@pytest.mark.usefixtures("cluster")
def test_rows_whose_checkpoint_was_being_moved_are_written_again(tmp_path: Path) -> None:
    """A move on S3 is a copy and a deletion."""
    import ray
    from ray.data.checkpoint import CheckpointConfig

    from embedway.cluster import embed_dataset

    folders = {name: tmp_path / name for name in ("in", "out", "checkpoints")}
    folders["in"].mkdir()
    table = pa.table({"id": range(40), "text": TEXTS[:40]})
    pq.write_table(table, folders["in"] / "rows.parquet")
    pq.write_table(table.slice(0, 0), folders["in"] / "none.parquet")

    def run() -> None:
        checkpoint = CheckpointConfig("id", str(folders["checkpoints"]), delete_checkpoint_on_success=False)
        rows = ray.data.read_parquet(str(folders["in"]))
        embedded = embed_dataset(rows, DEFAULT_MODEL, checkpoint=checkpoint, batch_size=20, block_rows=20)
        assert rows.context.checkpoint_config is None
        embedded.write_parquet(str(folders["out"]))

    run()
    final = min(folders["checkpoints"].iterdir())
    shutil.copy(final, final.with_suffix(".pending.parquet"))
    kept = [file for file in folders["out"].iterdir() if not file.name.startswith(final.stem)]
    run()
    assert sorted(pq.read_table(folders["out"]).column("id").to_pylist()) == list(range(40))
    assert len(kept) == 1
    assert kept[0].exists()
    files = set(folders["out"].iterdir())
    run()
    assert set(folders["out"].iterdir()) == files
