from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest
from benchmarks.peer_environments import Alias, Environment, write_alias


def test_an_alias_is_found_under_its_own_name_and_version(tmp_path: Path) -> None:
    metadata = tmp_path / "a_program-1.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(
        "Metadata-Version: 2.4\nName: a-program\nVersion: 1.0\nLicense: one\n  two\n\nName: of the text\n",
        encoding="utf-8",
    )
    write_alias(tmp_path, Alias("a-program", "program", "1.0+cpu"))
    found = {d.name: d for d in importlib.metadata.distributions(path=[str(tmp_path)])}
    assert found["program"].version == "1.0+cpu"
    assert found["a-program"].version == "1.0"
    assert (found["program"].read_text("METADATA") or "").endswith("\nLicense: one\n  two\n\nName: of the text\n")


def test_an_environment_of_other_requirements_counts_as_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    environment = Environment("a", ("one==1",))
    assert not environment.is_installed
    environment.folder.mkdir(parents=True)
    (environment.folder / "requirements.installed").write_text("one==1", encoding="utf-8")
    assert environment.is_installed
    assert not Environment("a", ("one==2",)).is_installed
