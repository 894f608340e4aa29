from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from embedway.cli import main
from embedway.commands.model_tables import in_words
from fake_hub import write_cache

if TYPE_CHECKING:
    from pathlib import Path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["embedway", *arguments])
    monkeypatch.setenv("COLUMNS", "250")
    return main()


def test_families_and_models_here_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cache(tmp_path, "me/[mine]", {"config.json": "{}"})
    assert run(monkeypatch, "models", "--download-dir", str(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert re.search(r"encoders of BERT's kind.*bert, electra, roberta", printed)
    assert re.search(r"qwen3-embedding-\(0\.6b\|4b\|8b\) +lasttoken +yes", printed)
    assert re.search(r"all-MiniLM-L6-v2 +package +[\d.]+ MiB +bert +384 +256 +mean", printed)
    assert re.search(r"me/\[mine\] .*cannot be served: it was not downloaded whole", printed)


def test_json_has_the_same_for_scripts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "models", "--json", "--download-dir", str(tmp_path)) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {"kinds", "families", "local"} == set(printed)
    [local] = printed["local"]
    assert (local["dimension"], local["max_length"], local["pooling"]) == (384, 256, ["mean"])
    assert all(re.compile(family["name_pattern"]) for family in printed["families"])


@pytest.mark.parametrize(
    ("num_bytes", "words"), [(0, "0 KiB"), (1536, "1.5 KiB"), (90 * 2**20, "90 MiB"), (5 * 2**30, "5 GiB")]
)
def test_sizes_are_short(num_bytes: int, words: str) -> None:
    assert in_words(num_bytes) == words
