"""Several models from flags, variables and files: what each has of its own, what it shares, and its names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from embedway.commands.setting_options import given_settings
from embedway.config import Settings, load_settings
from embedway.errors import InvalidSetting
from embedway.model_settings import models_of, names_of

YAML = """
dtype: float32
cache-mb: 32
models:
  - org/first
  - model: org/second
    dtype: bfloat16
    served-model-name: second
    alias: [the second]
    lora-paths: [legal=/adapters/legal]
    replicas: 2
"""
TOML = """
dtype = "float32"
cache_mb = 32
[[models]]
model_path = "org/first"
[[models]]
model_path = "org/second"
dtype = "bfloat16"
served_model_name = "second"
alias = ["the second"]
lora_paths = ["legal=/adapters/legal"]
replicas = 2
"""


def models(flags: dict[str, Any], config: Path | None = None) -> list[Settings]:
    return models_of(load_settings(flags, config))


@pytest.mark.parametrize(("name", "text"), [("a.yaml", YAML), ("a.toml", TOML)])
def test_a_file_gives_each_model_settings_of_its_own(tmp_path: Path, name: str, text: str) -> None:
    file = tmp_path / name
    file.write_text(text)
    first, second = models({"alias": ["any=org/first", "other=second"]}, file)
    assert (first.model_path, first.dtype, first.replicas, first.lora_paths) == ("org/first", "float32", 1, [])
    assert (second.model_path, second.dtype, second.replicas) == ("org/second", "bfloat16", 2)
    assert [path.lora_name for path in second.lora_paths] == ["legal"]
    assert names_of(first) == ("org/first", "any")
    assert names_of(second) == ("second", "other", "the second")
    assert (first.cache_mb, second.cache_mb) == (32, 32)  # given, so it is each engine's


def test_a_single_model_has_the_settings_as_they_are() -> None:
    settings = load_settings({"model_path": "a", "alias": ["x"], "served_model_name": ["s"], "revision": "r"})
    [model] = models_of(settings)
    assert model == settings
    assert names_of(model) == ("s", "x")
    assert models({}) == [load_settings({})]


def test_the_arguments_of_the_command_line_are_one_model_or_several() -> None:
    [one] = models(given_settings(["a"], {"port": "1"}))
    assert (one.model_path, one.models) == ("a", [])
    assert [model.model_path for model in models(given_settings(["a", "b"], {}))] == ["a", "b"]
    with pytest.raises(InvalidSetting, match="together with MODEL"):
        given_settings(["a"], {"models": ["b"]})
    with pytest.raises(InvalidSetting, match="together with --model-path"):
        models(given_settings(["a", "b"], {"model_path": "c"}))


def test_the_last_source_that_names_models_says_which_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("models: [a, b]\n")
    assert [model.model_path for model in models({}, file)] == ["a", "b"]
    assert [model.model_path for model in models({"model_path": "c"}, file)] == ["c"]
    monkeypatch.setenv("EMBEDWAY_MODELS", "d, e")
    assert [model.model_path for model in models({}, file)] == ["d", "e"]
    monkeypatch.setenv("EMBEDWAY_MODELS", '[{"model_path": "d", "dtype": "float32"}]')
    assert [(model.model_path, model.dtype) for model in models({}, file)] == [("d", "float32")]


def test_what_one_model_is_called_or_loads_is_not_the_others() -> None:
    given = {"served_model_name": ["s"], "revision": "r", "lora_paths": ["x=/y"], "pooling": "cls"}
    first, second = models({"models": ["a", "b"], **given})
    assert (names_of(first), first.revision, len(first.lora_paths)) == (("s",), "r", 1)
    assert (names_of(second), second.revision, second.lora_paths) == (("b",), None, [])
    assert second.pooling == "cls"


@pytest.mark.parametrize(("count", "cache_mb", "max_batch_tokens"), [(1, 64, 16384), (2, 32, 8192), (20, 8, 4096)])
def test_memory_that_nobody_gave_is_shared_out(count: int, cache_mb: int, max_batch_tokens: int) -> None:
    each = models({"models": [f"org/m{i}" for i in range(count)]})
    assert {(model.cache_mb, model.max_batch_tokens) for model in each} == {(cache_mb, max_batch_tokens)}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"models": ["a", "a"]}, "two models have the name 'a'"),
        ({"models": ["a", "b"], "alias": ["b=a"]}, "two models have the name 'b'"),
        ({"models": ["a", "b"], "alias": ["x=c"]}, r"--alias: 'x=c' must be NAME or NAME=MODEL.*: a, b$"),
        ({"models": ["a", "b"], "alias": ["=a"]}, "--alias"),
        ({"models": ['{"model_path": "a", "port": 1}']}, "'port', which is no setting of a single model"),
        ({"models": ['{"dtype": "auto"}']}, "without 'model_path'"),
        ({"models": ["{"]}, "not valid JSON"),
        ({"models": [3]}, "an object of settings"),
        ({"models": ["a", '{"model_path": "b", "dtype": "int3"}']}, "--models: b: --dtype: "),
    ],
)
def test_models_that_cannot_be_are_refused_with_their_fault(given: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidSetting, match=says):
        models(given)
