from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from huggingface_hub import constants

from embedway.errors import AdapterRefused
from embedway.models.adapter_location import locate_adapter
from fake_hub import COMMIT, FakeHub, online, running_hub, write, write_cache

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WHOLE = {"adapter_config.json": json.dumps({"peft_type": "LORA"}), "adapter_model.safetensors": "weights"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with running_hub(monkeypatch) as hub:
        yield hub


def problem_of(source: str, download_dir: Path) -> str:
    with pytest.raises(AdapterRefused) as refused:
        locate_adapter(source, name="mine", download_dir=str(download_dir))
    assert refused.value.adapter == "mine"
    return refused.value.problem


def test_a_folder_is_taken_as_it_is_and_by_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "me" / "mine"
    folder.mkdir(parents=True)
    for source in (str(folder), "./me/mine", "me/mine"):
        assert locate_adapter(source, name="mine") == folder


def test_a_path_that_is_no_folder_is_refused_without_naming_it(tmp_path: Path) -> None:
    write(tmp_path, {"file": "text"})
    assert problem_of(str(tmp_path / "nowhere"), tmp_path) == "there is no such folder"
    assert problem_of(str(tmp_path / "file"), tmp_path) == "its path is a file, not a folder"


@pytest.mark.parametrize("source", ["mine", "me/mine/more", "me /mine", ""])
def test_what_is_neither_a_folder_nor_an_id_is_refused(tmp_path: Path, source: str) -> None:
    assert "no Hugging Face id (owner/name)" in problem_of(source, tmp_path)


def test_an_adapter_in_the_hub_s_cache_is_found_there(tmp_path: Path) -> None:
    folder = write_cache(tmp_path, "me/mine", WHOLE)
    assert locate_adapter("me/mine", name="mine", download_dir=str(tmp_path)) == folder


@pytest.mark.parametrize("absent", list(WHOLE))
def test_a_partial_cache_does_not_count(tmp_path: Path, absent: str) -> None:
    write_cache(tmp_path, "me/mine", {name: text for name, text in WHOLE.items() if name != absent})
    assert "HF_HUB_OFFLINE is set" in problem_of("me/mine", tmp_path)


def test_only_the_adapter_s_own_files_are_downloaded_and_then_found_in_the_cache(
    tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files = {**WHOLE, "adapter_model.bin": "pickled", "tokenizer.json": "{}", "README.md": "text"}
    folder = locate_adapter("me/mine", name="mine", download_dir=str(tmp_path))
    assert folder.name == COMMIT
    assert {path.name for path in folder.iterdir()} == set(WHOLE)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert locate_adapter("me/mine", name="mine", download_dir=str(tmp_path)) == folder


def test_the_hub_s_refusal_is_told(tmp_path: Path, hub: FakeHub) -> None:
    hub.status, hub.error_code = 403, "GatedRepo"
    assert "its owner must grant access first" in problem_of("me/mine", tmp_path)


def test_a_hub_that_does_not_answer_is_told_without_its_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    online(monkeypatch, "http://127.0.0.1:9")
    problem = problem_of("me/mine", tmp_path)
    assert problem == "it is not on this machine, and the Hugging Face Hub cannot be reached"
