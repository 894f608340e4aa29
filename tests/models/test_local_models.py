from __future__ import annotations

import json
from typing import TYPE_CHECKING

from checkpoints import tiny_checkpoint
from embedway.models.local_models import local_models, names_here
from fake_hub import COMMIT, write, write_cache

if TYPE_CHECKING:
    from pathlib import Path

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


def cache_of_a_tiny_model(cache: Path, name: str) -> None:
    snapshot = write_cache(cache, name, {})
    snapshot.mkdir(parents=True)
    tiny_checkpoint("bert", snapshot, pooling="cls", max_seq_length=32)


def test_models_in_the_cache_and_in_packages_are_found_by_their_names(tmp_path: Path) -> None:
    cache_of_a_tiny_model(tmp_path, "me/mine")
    write(tmp_path / "datasets--me--data", {"refs/main": COMMIT})
    assert names_here(tmp_path) == ["me/mine", MINILM]


def test_a_cached_model_is_described_by_what_it_declares(tmp_path: Path) -> None:
    cache_of_a_tiny_model(tmp_path, "me/mine")
    model, _ = local_models(tmp_path)
    assert (model.name, model.location.source, model.location.revision) == ("me/mine", "hub_cache", COMMIT)
    assert model.spec is not None
    assert (model.spec.dimension, model.spec.max_length, model.spec.pooling) == (32, 32, ("cls",))
    assert model.num_bytes == sum(path.stat().st_size for path in model.location.folder.rglob("*") if path.is_file())


def test_a_data_package_needs_no_cache(tmp_path: Path) -> None:
    [model] = local_models(tmp_path / "none")
    assert (model.name, model.location.source) == (MINILM, "package")
    assert model.spec is not None
    assert model.spec.dimension == 384


def test_a_package_stands_in_for_a_broken_download(tmp_path: Path) -> None:
    write_cache(tmp_path, MINILM, {"config.json": '{"model_type": "bert"}'})
    [model] = local_models(tmp_path)
    assert (model.location.source, model.problem) == ("package", None)


def test_what_cannot_be_served_says_why(tmp_path: Path) -> None:
    config = json.dumps({"model_type": "gpt2", "n_embd": 8, "vocab_size": 9})
    write_cache(tmp_path, "me/a-part", {"config.json": config})
    write_cache(tmp_path, "me/bin", {"config.json": config, "README.md": "", "pytorch_model.bin": ""})
    write_cache(tmp_path, "me/broken", {"config.json": config, "modules.json": "[{"})
    files = {"config.json": config, "README.md": "", "model.safetensors": "", "tokenizer.json": "{}"}
    write_cache(tmp_path, "me/chat", files)
    problems = {model.name: model.problem for model in local_models(tmp_path) if model.spec is None}
    assert sorted(problems) == ["me/a-part", "me/bin", "me/broken", "me/chat"]
    assert "not downloaded whole" in str(problems["me/a-part"])
    assert "only safetensors are read" in str(problems["me/bin"])
    assert "modules.json cannot be read" in str(problems["me/broken"])
    assert "--pooling" in str(problems["me/chat"])


def test_notes_of_what_is_not_there_are_no_model(tmp_path: Path) -> None:
    write(tmp_path / "models--me--nothing" / ".no_exist" / COMMIT, {"modules.json": ""})
    assert [model.name for model in local_models(tmp_path)] == [MINILM]
