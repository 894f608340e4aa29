from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from embedway.errors import InvalidSetting, UnsupportedCheckpoint
from embedway.models.json_files import JsonObject
from embedway.models.max_length import choose_max_length

UNKNOWN = int(1e30)


def length(
    config: dict[str, Any], declared: int | None = None, tokenizer: int | None = None, override: int | None = None
) -> int:
    return choose_max_length(JsonObject(Path("model"), "config.json", config), declared, tokenizer, override)


BERT = {"model_type": "bert", "max_position_embeddings": 512}
XLM_R = {"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1}
QWEN3 = {"model_type": "qwen3", "max_position_embeddings": 32768}
T5 = {"model_type": "t5", "n_positions": 512}


def test_a_declared_length_below_the_positions_is_the_default() -> None:
    assert length(BERT, declared=256, tokenizer=512) == 256


@pytest.mark.parametrize("tokenizer", [512, UNKNOWN, None])
def test_without_a_declared_length_the_positions_count(tokenizer: int | None) -> None:
    assert length(BERT, tokenizer=tokenizer) == 512


def test_a_shorter_tokenizer_counts_too() -> None:
    assert length(QWEN3, tokenizer=8192) == 8192


@pytest.mark.parametrize("model_type", ["roberta", "xlm-roberta", "camembert", "longformer", "mpnet"])
def test_positions_that_start_after_the_padding_hold_fewer_tokens(model_type: str) -> None:
    config = {**XLM_R, "model_type": model_type}
    assert length(config, tokenizer=UNKNOWN) == 512
    assert length(config, declared=514) == 512
    with pytest.raises(InvalidSetting, match=r"--max-length: 513 .* 512 tokens"):
        length(config, override=513)


def test_roberta_without_a_declared_padding_has_the_usual_one() -> None:
    assert length({"model_type": "roberta", "max_position_embeddings": 514}) == 512


def test_mpnet_has_its_padding_index_in_its_code() -> None:
    assert length({"model_type": "mpnet", "max_position_embeddings": 514, "pad_token_id": 0}) == 512


def test_a_declared_length_beyond_learned_positions_is_clamped() -> None:
    assert length(BERT, declared=8192) == 512


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "qwen2", "max_position_embeddings": 2048},
        {"model_type": "unheard-of", "max_position_embeddings": 2048, "rope_theta": 1e6},
        {"model_type": "bert", "max_position_embeddings": 2048, "position_embedding_type": "alibi"},
    ],
)
def test_a_declared_length_beyond_computed_positions_is_followed(config: dict[str, Any]) -> None:
    assert length(config, declared=8192) == 8192
    assert length(config, declared=8192, override=8192) == 8192
    with pytest.raises(InvalidSetting, match="2048 tokens"):
        length(config, override=8192)


def test_relative_positions_hold_any_length() -> None:
    assert length(T5, declared=256) == 256
    assert length(T5, declared=256, override=4096) == 4096


@pytest.mark.parametrize("config", [T5, {"model_type": "xlnet", "max_position_embeddings": -1}])
def test_a_model_that_names_no_length_needs_the_setting(config: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedCheckpoint, match="--max-length"):
        length(config, tokenizer=UNKNOWN)
    assert length(config, override=100) == 100


def test_a_declared_length_that_means_none_is_ignored() -> None:
    assert length(BERT, declared=UNKNOWN) == 512
