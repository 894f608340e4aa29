"""`embedway embed` as it is typed, in processes of its own where they are killed."""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from checkpoints import tiny_checkpoint
from dual_checkpoints import dual_checkpoint
from embedway import Embedder
from embedway.cli import main
from embedway.commands.embed import without_model
from embedway.config import DEFAULT_MODEL
from embedway.files import local_model
from embedway.model_spec import ModelSpec
from embedway.models.interface import EmbeddingModel
from running_server import RunningServer

TEXTS = [f"{'words and more ' * (i % 7)} number {i}" for i in range(120)]


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """A command sets up the logging of its whole process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(TEXTS)))
    return path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr("sys.argv", ["embedway", "embed", *map(str, arguments)])
    return main()


def vectors_of(path: Path) -> np.ndarray:
    table = pq.read_table(path)
    assert table["id"].to_pylist() == list(range(len(TEXTS)))
    return np.array(table["embedding"].to_pylist(), np.float32)


def test_here_and_through_a_server_the_vectors_are_the_embedder_s(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], texts: Path, tmp_path: Path
) -> None:
    expected = Embedder(dtype="float32").embed(TEXTS)
    assert run(monkeypatch, texts, "-o", tmp_path / "here.parquet", "--dtype", "float32", "--chunk-rows", "50") == 0
    assert "here.parquet: 120 rows; 0:0" in capsys.readouterr().err
    np.testing.assert_allclose(vectors_of(tmp_path / "here.parquet"), expected, atol=1e-5)
    with RunningServer("--dtype", "float32", "--api-key", "secret") as server:
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        assert run(monkeypatch, texts, "-o", tmp_path / "there.parquet", "--url", server.url, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["rows"], summary["bad_rows"], summary["errors"]) == (120, 0, None)
    assert summary["tokens"] > 1000
    np.testing.assert_allclose(vectors_of(tmp_path / "there.parquet"), expected, atol=1e-5)


def test_the_model_may_stand_behind_the_inputs(monkeypatch: pytest.MonkeyPatch, texts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tiny_checkpoint("bert", folder, max_seq_length=40)
    output = tmp_path / "a.parquet"
    assert run(monkeypatch, texts, "-o", output, folder, "--dtype", "float32", "--truncate", "end") == 0
    expected = Embedder(str(folder), dtype="float32").embed(TEXTS, truncate="end")
    found = vectors_of(output)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "model"),
    [
        (["rows.jsonl"], None),
        (["owner/name"], None),  # one input, and no model
        (["rows.jsonl", "owner/name"], "owner/name"),
        (["rows.jsonl", "more.jsonl", "owner/name-v1.5"], "owner/name-v1.5"),
        (["rows.jsonl", "s3://bucket/name"], None),
        (["rows.jsonl", "folder/rows.csv.gz"], None),
        (["rows.jsonl", "folder/below"], None),  # it is there
        (["rows.jsonl", "checkpoint"], "checkpoint"),
        (["rows.jsonl", "nothing"], None),
    ],
)
def test_a_model_is_told_from_an_input(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], model: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder/below").mkdir(parents=True)
    Path("checkpoint").mkdir()
    Path("checkpoint/config.json").write_text("{}")
    inputs, found = without_model(arguments)
    assert found == model
    assert inputs == (arguments if model is None else arguments[:-1])


def test_vectors_have_the_length_that_the_model_s_folder_declares(
    monkeypatch: pytest.MonkeyPatch, texts: Path, tmp_path: Path
) -> None:
    folder = tiny_checkpoint("bert", tmp_path / "model", truncate_dim=16)
    options = ["--model", folder, "--truncate", "end", "--dtype", "float32", "-o"]
    assert run(monkeypatch, texts, *options, tmp_path / "short.parquet") == 0
    expected = Embedder(folder, dtype="float32").embed(TEXTS, truncate="end")
    assert expected.shape == (len(TEXTS), 16)
    np.testing.assert_allclose(vectors_of(tmp_path / "short.parquet"), expected, atol=1e-5)


def test_a_killed_run_goes_on_with_what_it_has_finished(texts: Path, tmp_path: Path) -> None:
    def start(output: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "embedway", "embed", str(texts), "-o", str(output), "--chunk-rows", "4"]
        return subprocess.Popen(
            [*command, "--dtype", "float32"], stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "500"}
        )

    output = tmp_path / "out.parquet"
    parts = tmp_path / "out.parquet.parts"
    for count in (1, 9):
        killed = start(output)
        deadline = time.monotonic() + 60
        while len(list(parts.glob("part-*"))) < count:
            assert killed.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.001)
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        assert not output.exists()
    finished = {path.name: path.stat().st_mtime_ns for path in parts.glob("part-*.parquet")}
    last = start(output)
    while (parts / "manifest.json").exists() and last.poll() is None:
        now = {path.name: path.stat().st_mtime_ns for path in parts.glob("part-*.parquet") if path.exists()}
        assert now.keys() < finished.keys() or finished.items() <= now.items() or output.exists()
        time.sleep(0.01)
    _, said = last.communicate()
    assert last.returncode == 0, said
    assert f"120 rows, {4 * len(finished)} of them by an earlier run" in said
    np.testing.assert_allclose(vectors_of(output), Embedder(dtype="float32").embed(TEXTS), atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.parquet", "texts.jsonl"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_says_in_one_line_that_it_goes_on(
    texts: Path, tmp_path: Path, number: signal.Signals
) -> None:
    command = [sys.executable, "-m", "embedway", "embed", str(texts), "-o", str(tmp_path / "out.npy")]
    command += ["--chunk-rows", "2", "--dtype", "float32"]
    started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "500"})
    deadline = time.monotonic() + 60
    while not (tmp_path / "out.npy.parts" / "part-00000000.parquet").exists():
        assert started.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)
    started.send_signal(number)
    _, said = started.communicate(timeout=60)
    assert said == f"Error: ended by {number.name}. The same command goes on where this one ended\n"
    assert started.returncode == 128 + number
    left = {path.name for path in (tmp_path / "out.npy.parts").iterdir()}
    assert left >= {"manifest.json", "part-00000000.parquet"}
    assert all(name.endswith((".json", ".parquet")) for name in left)


def test_a_folder_of_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, folder = dual_checkpoint("clip", tmp_path / "clip"), tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    for i, name in enumerate(("b.png", "below/a.jpg")):
        Image.new("RGB", (40 + i, 30), (200, 90 * i, 10)).save(folder / name)
    (folder / "broken.png").write_bytes(b"no image")
    assert run(monkeypatch, folder, "-o", tmp_path / "out.parquet", "--model", model, "--dtype", "float32") == 0
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == ["id", "path", "embedding"]
    assert table["path"].to_pylist() == ["b.png", "below/a.jpg"]
    images = [{"image": base64.b64encode((folder / name).read_bytes()).decode()} for name in table["path"].to_pylist()]
    expected = Embedder(model, dtype="float32").embed(images)
    np.testing.assert_allclose(np.array(table["embedding"].to_pylist()), expected, atol=1e-5)
    [bad] = (tmp_path / "out.parquet.errors.jsonl").read_text().splitlines()
    assert (json.loads(bad)["row"], json.loads(bad)["input"]) == (2, str(folder / "broken.png"))


PAGE = Path(__file__).parents[2] / "docs" / "files.md"


def test_the_commands_of_the_page(monkeypatch: pytest.MonkeyPatch, texts: Path, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path("index").mkdir()
    texts.rename("documents.jsonl")
    Path("articles.csv").write_text("url,title,body\nhttp://a,An article,What it says\n")
    Path("notes.txt").write_text("one\ntwo " + "words " * 400)
    pq.write_table(pa.table({"id": [1], "text": ["a text"]}), "corpus.parquet")
    block = PAGE.read_text().split("```sh\n")[2].partition("```")[0]
    for command in block.splitlines():
        assert run(monkeypatch, *shlex.split(command)[2:], "--dtype", "float32") == 0
    assert len(vectors_of(Path("vectors.parquet"))) == len(TEXTS)
    [article] = map(json.loads, Path("articles.jsonl").read_text().splitlines())
    assert (article.keys(), article["url"]) == ({"url", "title", "embedding"}, "http://a")
    assert (np.load("notes.npy").dtype, len(np.load("notes.npy"))) == (np.int8, 2)
    assert lancedb.connect("index").open_table("corpus").count_rows() == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["-o", "out.xyz"], "--output: out.xyz must end in .parquet, .jsonl, .npy, .npz, .lance"),
        (["-o", "there.npy"], "--output: there.npy is there already: --overwrite replaces it"),
        (["-o", "texts.jsonl"], "--output: .*texts.jsonl is an input"),
        (["-o", "there.npy/a.npy"], "cannot write there.npy/a.npy.parts: Not a directory"),
        (
            ["-o", "a.npy", "--url", "http://127.0.0.1:9", "--pooling", "cls"],
            "--pooling: with --url it is the server's",
        ),
        (["-o", "a.npy", "--output-dtype", "int5"], "--output-dtype: 'int5' is none of float32, int8"),
        (["-o", "a.npy", "--dimensions", "5000"], "--dimensions: .*from 1 to 384"),
        (["-o", "a.npy", "--prompt-name", "nobody"], "--prompt-name: "),
        (["-o", "a.npy", "--model", "./nowhere"], "nowhere"),
        (["-o", "a.npy", "nowhere/rows.jsonl"], "nowhere/rows.jsonl: there is no such"),
        (["-o", "a.npy", DEFAULT_MODEL, "--model", DEFAULT_MODEL], "--model: .*name the model once"),
        (["-o", "a.npy", DEFAULT_MODEL, "--url", "http://127.0.0.1:9", "--device", "cpu"], "--device: .*leave it out"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    texts: Path,
    tmp_path: Path,
    options: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.npy").write_bytes(b"")
    before = sorted(Path().iterdir())
    assert run(monkeypatch, texts, *options) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert re.search(says, said)
    assert sorted(Path().iterdir()) == before


def test_a_run_goes_on_in_the_type_that_was_measured_for_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Else a moment's load could choose another, and what is finished would be of no use."""
    (tmp_path / "a.txt").write_text("good\n" + "word " * 400 + "\n")
    given = (tmp_path / "a.txt", "-o", tmp_path / "out.npy", "--chunk-rows", "1")
    assert run(monkeypatch, *given, "--dtype", "float32", "--fail-fast") == 1
    asked = []
    really_load = local_model.load_model

    def load(spec: ModelSpec, *, dtype: str, **options: Any) -> EmbeddingModel:
        asked.append(dtype)
        return really_load(spec, dtype=dtype, **options)

    monkeypatch.setattr(local_model, "load_model", load)
    assert run(monkeypatch, *given) == 0
    assert asked == ["float32"]
    assert "1 rows, 1 of them by an earlier run" in capsys.readouterr().err


def test_fail_fast_is_status_1_and_restart_drops_what_it_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("good\n" * 3 + "word " * 400 + "\n")
    given = (tmp_path / "a.txt", "-o", tmp_path / "out.npy", "--chunk-rows", "1")
    assert run(monkeypatch, *given, "--fail-fast") == 1
    assert "a.txt, row 3: " in capsys.readouterr().err
    assert run(monkeypatch, *given, "--truncate", "end") == 2
    assert "--restart drops it" in capsys.readouterr().err
    assert run(monkeypatch, *given, "--truncate", "end", "--restart") == 0
    assert len(np.load(tmp_path / "out.npy")) == 4
