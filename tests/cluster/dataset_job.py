"""A job of Ray Data in a process of its own, on a cluster that is there, which a test has killed.

Run as `python dataset_job.py INPUT OUTPUT CHECKPOINTS SEEN KILL_AT`: the id of each row that is embedded becomes a line
of the file SEEN; the job's driver is killed once KILL_AT checkpoints are there.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path

import pyarrow as pa
import ray
from pyarrow.fs import FileSelector, FileSystem
from ray.data.checkpoint import CheckpointConfig

from embedway.cluster import embed_dataset
from embedway.config import DEFAULT_MODEL


def main(given: str, output: str, checkpoints: str, seen: str, kill_at: str) -> None:
    aws = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    ray.init(runtime_env={"env_vars": aws}, log_to_driver=False, logging_level=logging.ERROR)
    driver = os.getpid()

    def note(rows: pa.Table) -> pa.Table:
        with Path(seen).open("a") as file:
            file.writelines(f"{row}\n" for row in rows.column("id").to_pylist())
        system, folder = FileSystem.from_uri(checkpoints)
        files = system.get_file_info(FileSelector(folder, allow_not_found=True))
        if sum(".pending" not in file.base_name for file in files) >= int(kill_at):
            os.kill(driver, signal.SIGKILL)
        return rows

    embedded = embed_dataset(
        ray.data.read_parquet(given),
        DEFAULT_MODEL,
        checkpoint=CheckpointConfig("id", checkpoints, delete_checkpoint_on_success=False),
        batch_size=20,
        block_rows=20,
    )
    embedded.map_batches(note, batch_format="pyarrow").write_parquet(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
