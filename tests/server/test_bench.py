"""`embedway bench` as an operator runs it, on a real server."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from running_server import RunningServer

if TYPE_CHECKING:
    from pathlib import Path

MODEL = "sentence-transformers/all-MiniLM-L6-v2"


def bench(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "embedway", "bench", *arguments]
    environment = {**os.environ, "COLUMNS": "200", **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


def test_two_loads_are_measured_and_drawn(minilm_server: RunningServer, tmp_path: Path) -> None:
    picture = tmp_path / "made.png"
    options = ("--concurrency", "1,2", "--duration", "0.3", "--batch-size", "3", "--plot", str(picture))
    ended = bench(minilm_server.url, *options)
    assert ended.returncode == 0, ended.stderr
    assert f"{MODEL}: 384 dimensions, 3 texts a request" in ended.stdout
    for words in ("1 at a time", "2 at a time", "tokens/s", "p99 ms", "none", "█"):
        assert words in ended.stdout
    with Image.open(picture) as image:
        assert image.width > image.height


def test_json_is_all_that_a_script_gets(minilm_server: RunningServer, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("a cat\na feline\n")
    ended = bench(f"{minilm_server.url}/v1", "--rate", "40", "--duration", "0.5", "--input", str(texts), "--json")
    assert ended.returncode == 0, ended.stderr
    made = json.loads(ended.stdout)
    [load] = made["loads"]
    assert (made["model"], made["dimension"], load["rate"]) == (MODEL, 384, 40)
    assert load["answered"] > 5
    assert load["failed"] == 0
    tokens = load["tokens_per_second"] * load["seconds"] / load["answered"]
    assert tokens == pytest.approx(4.5, abs=0.5)  # [CLS] a cat [SEP], and a feline, which is more pieces


def test_a_sweep_goes_on_until_saturation(minilm_server: RunningServer) -> None:
    ended = bench(minilm_server.url, "--duration", "0.2", "--words", "40", "--json")
    assert ended.returncode == 0, ended.stderr
    made = json.loads(ended.stdout)
    assert made["saturated"]
    assert [load["concurrency"] for load in made["loads"]][:2] == [1, 2]


def test_a_key_from_the_environment_opens_the_server_and_is_shown_nowhere() -> None:
    with RunningServer("--api-key", "s3cret") as server:
        refused = bench(server.url, "--model", MODEL)
        options = ("--model", MODEL, "--concurrency", "1", "--duration", "0.1", "--json")
        opened = bench(server.url, *options, EMBEDWAY_BENCH_API_KEY="s3cret")
    assert refused.returncode == 2
    assert "it answers 401" in refused.stderr
    assert opened.returncode == 0, opened.stderr
    assert "s3cret" not in opened.stdout + opened.stderr


def test_a_server_that_is_not_there_is_status_2() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        ended = bench(f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert ended.returncode == 2
    assert "cannot measure http://127.0.0.1" in ended.stderr
    assert "cannot connect" in ended.stderr
