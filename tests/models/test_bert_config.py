from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from checkpoints import tiny_checkpoint, tiny_spec
from embedway.errors import UnsupportedCheckpoint
from embedway.models.bert_config import EncoderConfig, read_encoder_config

if TYPE_CHECKING:
    from pathlib import Path


def read(folder: Path, family: str = "bert", **changes: Any) -> EncoderConfig | None:
    tiny_checkpoint(family, folder)
    spec = tiny_spec(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return read_encoder_config(spec)


@pytest.mark.parametrize(
    ("family", "first"),
    [("bert", 0), ("distilbert", 0), ("electra", 0), ("roberta", 2), ("camembert", 2), ("mpnet", 2)],
)
def test_each_family_counts_positions_from_its_own_start(tmp_path: Path, family: str, first: int) -> None:
    config = read(tmp_path, family)
    assert config is not None
    assert config.shape.first_position == first


def test_roberta_s_positions_follow_another_padding_id(tmp_path: Path) -> None:
    config = read(tmp_path, "roberta", pad_token_id=4)
    assert config is not None
    assert config.shape.first_position == 5


@pytest.mark.parametrize(
    ("name", "kind"),
    [("gelu", "gelu"), ("relu", "relu"), ("gelu_new", "gelu_tanh"), ("gelu_pytorch_tanh", "gelu_tanh")],
)
def test_activations_are_known_by_transformers_names(tmp_path: Path, name: str, kind: str) -> None:
    config = read(tmp_path, hidden_act=name)
    assert config is not None
    assert config.shape.activation == kind


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_act": "quick_gelu"},
        {"is_decoder": True},
        {"add_cross_attention": True},
        {"quantization_config": {"bits": 4}},
        {"num_attention_heads": 5},
        {"hidden_size": 1024, "num_attention_heads": 2},
    ],
    ids=str,
)
def test_a_checkpoint_that_asks_for_more_is_left_to_transformers(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert read(tmp_path, **changes) is None


def test_an_electra_with_a_projection_is_left_to_transformers(tmp_path: Path) -> None:
    assert read(tmp_path, "electra", embedding_size=16) is None


def test_a_causal_bert_is_left_to_transformers(tmp_path: Path) -> None:
    spec = tiny_spec(tiny_checkpoint("bert", tmp_path))
    assert read_encoder_config(msgspec.structs.replace(spec, bidirectional=False)) is None


def test_code_of_its_own_is_left_to_transformers_where_it_is_trusted(tmp_path: Path) -> None:
    assert read(tmp_path, auto_map={"AutoModel": "modeling.Model"}) is not None
    trusting = msgspec.structs.replace(tiny_spec(tmp_path), trust_remote_code=True)
    assert read_encoder_config(trusting) is None


def test_positions_that_nothing_here_computes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedCheckpoint, match="relative_key"):
        read(tmp_path, position_embedding_type="relative_key")
