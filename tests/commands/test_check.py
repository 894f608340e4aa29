"""`embedway check` as an operator runs it: what is printed, and the exit status."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

import without_torch
from checkpoints import tiny_checkpoint
from embedway.cli import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """The command sets it up for its process, which here is pytest's."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def check_here(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["embedway", "check", *arguments])
    return main()


def check(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "embedway", "check", *arguments]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)


def test_a_model_that_passes_ends_it_with_status_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_checkpoint("bert", tmp_path / "model")
    assert check_here(monkeypatch, str(folder), "--dtype", "float32", "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert made["passes"] is True
    assert [one["asked"] for one in made["types"]] == ["float32"]


def test_one_of_several_models_has_to_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("models: [a, b]\n")
    assert check_here(monkeypatch, "--config", str(file)) == 2
    assert "one model is checked at a time" in capsys.readouterr().err


def test_a_model_that_deviates_ends_it_with_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_checkpoint("bert", tmp_path / "model", pooling="mean")
    assert check_here(monkeypatch, str(folder), "--pooling", "max") == 1
    printed = capsys.readouterr().out
    assert printed.rstrip().endswith("FAIL")
    assert all(dtype in printed for dtype in ("float32", "bfloat16", "float16"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["/no/such/folder"], "/no/such/folder"), (["--dtype", "int3"], "--dtype: 'int3' is none of auto, float32")],
)
def test_what_cannot_be_checked_is_one_line_and_status_2(arguments: list[str], says: str) -> None:
    ended = check(*arguments)
    assert ended.returncode == 2
    assert says in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1, ended.stderr


def test_without_torch_it_is_said_what_to_install() -> None:
    ended = check(**without_torch.ENVIRONMENT)
    assert ended.returncode == 2
    assert "compares with transformers, needs torch" in ended.stderr
    assert "pip install 'embedway[torch]'" in ended.stderr
