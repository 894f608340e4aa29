"""Real models beside the real sentence-transformers and transformers; what is wrong is made wrong on purpose."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from checkpoints import TinyDense, tiny_checkpoint
from dual_checkpoints import dual_checkpoint
from embedway.comparison.model_check import ModelCheck, check_model
from embedway.comparison.report import as_json, print_check
from embedway.comparison.samples import TEXTS
from embedway.config import load_settings
from embedway.errors import CannotCheck, InvalidSetting
from vl_checkpoints import tiny_vl_checkpoint

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from embedway.config import Dtype


def check(model: Path | str, dtypes: Sequence[Dtype] = ("float32",), **settings: Any) -> ModelCheck:
    return check_model(load_settings({"model_path": str(model), **settings}), dtypes, lambda _: None)


def shown(checked: ModelCheck) -> str:
    file = io.StringIO()
    print_check(Console(file=file, width=200, highlight=False, markup=False), checked)
    return file.getvalue()


@pytest.fixture(scope="module")
def minilm() -> ModelCheck:
    return check("all-MiniLM-L6-v2", ("float32", "bfloat16"))


def test_minilm_passes_in_float32_and_in_bfloat16(minilm: ModelCheck) -> None:
    assert minilm.passes
    assert minilm.reference.startswith("sentence-transformers ")
    expected = {"pooling": "mean", "normalize": "yes", "dimension": "384", "prompts": "none"}
    assert minilm.declarations == {name: (fact, fact) for name, fact in expected.items()}
    exact, rough = minilm.types
    assert (exact.facts["dtype"], rough.facts["dtype"]) == ("float32", "bfloat16")
    assert exact.texts is not None
    assert rough.texts is not None
    assert 0.99 < rough.texts.worst_cosine < exact.texts.worst_cosine
    assert minilm.token_differences == []
    assert min(one.tokens_per_second or 0 for one in minilm.types) > 0


def test_the_report_says_what_was_compared(minilm: ModelCheck) -> None:
    lines = shown(minilm).splitlines()
    assert "beside sentence-transformers" in lines[0]
    for fact in ("pooling   mean", "length    256 tokens", f"for {len(TEXTS)} of {len(TEXTS)} texts"):
        assert any(fact in line for line in lines)
    assert [line.split()[-1] for line in lines if line.startswith(("float32 ", "bfloat16 "))] == [
        *("PASS", "PASS"),
    ]
    assert lines[-1] == "PASS"


def test_the_json_says_the_same(minilm: ModelCheck) -> None:
    made = json.loads(json.dumps(as_json(minilm)))
    assert made["passes"] is True
    assert [one["facts"]["dtype"] for one in made["types"]] == ["float32", "bfloat16"]
    assert made["types"][0]["texts"]["worst_cosine"] >= made["types"][0]["smallest_cosine"] == 0.99999


def test_another_pooling_than_the_folder_s_is_a_deviation(tmp_path: Path) -> None:
    checked = check(tiny_checkpoint("bert", tmp_path / "model", pooling="mean"), ("float32", "bfloat16"), pooling="max")
    assert checked.declarations["pooling"] == ("max", "mean")
    assert not replace(checked, types=[]).passes
    assert [one.passes for one in checked.types] == [False, False]
    assert checked.token_differences == []
    text = shown(checked)
    assert "max, but mean in sentence-transformers" in text
    assert "the cosine must be 0.99999 or more; the worst is that of" in text
    assert text.splitlines()[-1] == "FAIL"


def test_other_tokens_than_transformers_are_a_deviation(tmp_path: Path) -> None:
    folder = tiny_checkpoint("bert", tmp_path / "model")
    config = json.loads((folder / "tokenizer.json").read_text())
    config["normalizer"]["lowercase"] = False  # what tokenizer.json says, and the class's own setting does not
    (folder / "tokenizer.json").write_text(json.dumps(config))
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_class": "BertTokenizer"}))
    checked = check(folder)
    assert checked.token_differences
    assert not replace(checked, types=[]).passes  # whatever the vectors are
    assert "in AutoTokenizer" in shown(checked)


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("bert", {"dense": (TinyDense(16),), "normalize": False}),
        ("bert", {"prompts": {"query": "query: "}, "default_prompt_name": "query", "include_prompt": False}),
        ("bert", {"truncate_dim": 16}),
        ("qwen3", {"pooling": "lasttoken"}),
        ("xlm-roberta", {"pooling": "cls"}),
    ],
)
def test_what_a_folder_declares_passes(tmp_path: Path, family: str, settings: dict[str, Any]) -> None:
    assert check(tiny_checkpoint(family, tmp_path / "model", **settings)).passes


def test_the_prompts_that_a_folder_declares_are_shown(tmp_path: Path) -> None:
    prompts = {"query": "query: ", "title": "title: "}
    checked = check(tiny_checkpoint("bert", tmp_path / "model", prompts=prompts, default_prompt_name="title"))
    assert checked.passes
    assert "  prompts   query 'query: ', title (default) 'title: '" in shown(checked).splitlines()


def test_a_folder_without_declarations_is_compared_with_transformers(tmp_path: Path) -> None:
    folder = tiny_checkpoint("bert", tmp_path / "model")
    (folder / "modules.json").unlink()
    checked = check(folder, pooling="weightedmean")
    assert checked.passes
    assert checked.reference.startswith("transformers ")
    assert checked.declarations["pooling"] == ("weightedmean", None)


@pytest.mark.parametrize("family", ["clip", "siglip2 naflex"])
def test_a_dual_encoder_s_images_are_compared_too(tmp_path: Path, family: str) -> None:
    checked = check(dual_checkpoint(family, tmp_path / "model"))
    assert checked.passes, shown(checked)
    assert checked.types[0].images is not None
    assert "float32, images" in shown(checked)


def test_a_vision_language_model_cannot_be_checked_here(tmp_path: Path) -> None:
    with pytest.raises(CannotCheck, match="compared with transformers at each start"):
        check(tiny_vl_checkpoint("qwen2_vl", tmp_path / "model"), pooling="lasttoken")


def test_a_model_that_runs_in_no_type_cannot_be_checked(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="cuda:77"):
        check(tiny_checkpoint("bert", tmp_path / "model"), device="cuda:77")
