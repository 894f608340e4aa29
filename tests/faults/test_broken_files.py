"""Weights that cannot be read end the start with a sentence, and a log that cannot be written ends nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from checkpoints import tiny_checkpoint
from dual_checkpoints import dual_checkpoint
from embedway.models.checkpoint_location import locate
from running_server import READY

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
WEIGHTS = "model.safetensors"
SERVE = (sys.executable, "-m", "embedway", "serve", "--port", "0")


def cut_in_the_data(weights: bytes) -> bytes:
    return weights[: len(weights) // 2]


def cut_in_the_header(weights: bytes) -> bytes:
    return weights[:100]


def with_a_wrong_header(weights: bytes) -> bytes:
    return weights[:8] + b"x" * 1000 + weights[1008:]


def with_a_header_longer_than_the_file(weights: bytes) -> bytes:
    return b"\xff" * 8 + weights[8:]


def empty(weights: bytes) -> bytes:
    return b""


@pytest.mark.parametrize(
    "break_weights",
    [cut_in_the_data, cut_in_the_header, with_a_wrong_header, with_a_header_longer_than_the_file, empty],
)
def test_broken_weights_end_the_start_with_one_sentence_and_status_2(
    tmp_path: Path, break_weights: Callable[[bytes], bytes]
) -> None:
    folder = locate(MODEL).folder
    for path in folder.iterdir():
        if path.name != WEIGHTS:
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / WEIGHTS).write_bytes(break_weights((folder / WEIGHTS).read_bytes()))
    assert WEIGHTS in check_refused(tmp_path)


@pytest.mark.parametrize("family", ["qwen3", "clip"])
def test_so_they_do_where_the_model_runs_on_torch(tmp_path: Path, family: str) -> None:
    """A decoder through transformers, and a dual encoder's towers."""
    make = dual_checkpoint if family == "clip" else tiny_checkpoint
    folder = make(family, tmp_path / family)
    weights = folder / WEIGHTS
    weights.write_bytes(cut_in_the_data(weights.read_bytes()))
    check_refused(folder)


def check_refused(folder: Path) -> str:
    """Return what the server said."""
    ended = subprocess.run([*SERVE, str(folder)], capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 2, ended.stderr
    assert f"cannot serve {folder}" in ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_log_that_cannot_be_written_costs_no_request() -> None:
    """As on a disk that is full: every record fails, and an engine's death is one."""
    with Path("/dev/full").open("w") as full:
        process = subprocess.Popen(
            SERVE, stdout=subprocess.PIPE, stderr=full, text=True, env={**os.environ, "COLUMNS": "500"}
        )
        try:
            assert process.stdout is not None
            url = next(match.group(1) for line in process.stdout if (match := READY.search(line)))
            with httpx.Client(base_url=url, timeout=60) as client:
                body = {"model": MODEL, "input": "a"}
                assert client.post("/v1/embeddings", json=body).status_code == 200
                children = psutil.Process(process.pid).children()
                [engine] = [child for child in children if "embedway.engine.loop" in child.cmdline()]
                engine.kill()
                engine.wait(30)
                while client.get("/health").status_code != 200:
                    pass
                assert client.post("/v1/embeddings", json=body).status_code == 200
        finally:
            process.terminate()
            process.communicate(timeout=60)
    assert process.returncode == 0
