"""Our reading of a folder against sentence-transformers' own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules.dense import Dense
from sentence_transformers.base.modules.normalize import Normalize
from sentence_transformers.base.modules.transformer import Transformer
from sentence_transformers.sentence_transformer.modules.pooling import Pooling

from checkpoints import TinyDense, tiny_checkpoint
from embedway.models.checkpoint import read_spec

if TYPE_CHECKING:
    from pathlib import Path

    from embedway.model_spec import ModelSpec

LAYOUTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "cls without normalisation": {"pooling": "cls", "normalize": False},
    "several poolings": {"pooling": ("mean", "max", "lasttoken")},
    "dense": {"dense": (TinyDense(16), TinyDense(8))},
    "prompts": {"prompts": {"query": "query: ", "title": "title: "}, "default_prompt_name": "title"},
    "prompt left out": {"prompts": {"query": "query: "}, "include_prompt": False},
    "truncated": {"truncate_dim": 16},
    "lowercased": {"do_lower_case": True},
}


def assert_reads_alike(folder: Path) -> ModelSpec:
    spec, theirs = read_spec(folder, name="tiny"), SentenceTransformer(str(folder), device="cpu")
    pooling = next(module for module in theirs if isinstance(module, Pooling))
    modes = pooling.pooling_mode
    assert spec.pooling == ((modes,) if isinstance(modes, str) else modes)
    assert spec.include_prompt == pooling.include_prompt
    assert spec.max_length == theirs.max_seq_length
    assert (spec.truncate_dim or spec.dimension) == theirs.get_embedding_dimension()
    assert spec.truncate_dim == theirs.truncate_dim
    assert {"query": "", "document": "", **spec.prompts} == theirs.prompts
    assert spec.default_prompt_name == theirs.default_prompt_name
    assert spec.normalize == any(isinstance(module, Normalize) for module in theirs)
    dense = [module for module in theirs if isinstance(module, Dense)]
    assert [(d.in_features, d.out_features, d.bias) for d in spec.dense] == [
        (d.in_features, d.out_features, d.bias) for d in dense
    ]
    assert [d.activation for d in spec.dense] == [d.get_config_dict()["activation_function"] for d in dense]
    transformer = theirs[0]
    assert isinstance(transformer, Transformer)
    assert spec.lowercase == transformer.do_lower_case
    assert spec.vocab_size == next(transformer.model.get_input_embeddings().parameters()).shape[0]
    assert spec.hidden_size == transformer.get_embedding_dimension()
    return spec


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_older_layout_is_read_alike(tmp_path: Path, layout: str) -> None:
    assert_reads_alike(tiny_checkpoint("bert", tmp_path / "model", **LAYOUTS[layout]))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_sentence_transformers_saves_is_read_alike(tmp_path: Path, layout: str) -> None:
    older = tiny_checkpoint("bert", tmp_path / "older", **LAYOUTS[layout])
    SentenceTransformer(str(older), device="cpu").save(str(tmp_path / "newer"))
    newer = assert_reads_alike(tmp_path / "newer")
    assert newer.pooling == read_spec(older, name="older").pooling


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "mpnet", "distilbert", "nomic_bert", "qwen3", "gemma3"])
def test_each_family_is_read_alike(tmp_path: Path, family: str) -> None:
    assert_reads_alike(tiny_checkpoint(family, tmp_path / "model", pooling="lasttoken"))


@pytest.mark.parametrize("family", ["bert", "distilbert", "qwen3"])
@pytest.mark.parametrize("tokenizer_length", [7, 512, int(1e30), None])
def test_the_length_without_a_declared_one_is_sentence_transformers(
    tmp_path: Path, family: str, tokenizer_length: int | None
) -> None:
    folder = tiny_checkpoint(family, tmp_path / "model")
    (folder / "sentence_bert_config.json").unlink()
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "model_max_length": tokenizer_length}))
    assert_reads_alike(folder)


def test_a_transformer_in_a_folder_of_its_own_is_read_alike(tmp_path: Path) -> None:
    folder = tiny_checkpoint("bert", tmp_path / "model", dense=(TinyDense(8),))
    inner = folder / "0_Transformer"
    inner.mkdir()
    for path in folder.iterdir():
        if path.is_file() and path.name not in ("modules.json", "config_sentence_transformers.json"):
            path.rename(inner / path.name)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    assert_reads_alike(folder)
