from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from transformers import AutoConfig

from dual_checkpoints import dual_checkpoint
from embedway.errors import InvalidSetting, UnsupportedCheckpoint
from embedway.models.checkpoint import read_spec
from embedway.models.dual_encoder_config import DEFAULTS, projection_size, read_dual_encoder_config, read_tower
from embedway.models.json_files import JsonObject

if TYPE_CHECKING:
    from pathlib import Path


def config_of(folder: Path, **values: object) -> JsonObject:
    return JsonObject(folder, "config.json", values)


def change(folder: Path, **settings: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


@pytest.mark.parametrize("model_type", DEFAULTS)
def test_what_config_json_leaves_out_is_what_transformers_takes(model_type: str, tmp_path: Path) -> None:
    theirs: Any = AutoConfig.for_model(model_type)
    config = config_of(tmp_path, model_type=model_type)
    for side in ("text", "vision"):
        expected = getattr(theirs, f"{side}_config").to_dict()
        ours = read_tower(config, side).values
        assert {key: expected[key] for key in ours} == ours
    expected_size = theirs.projection_dim if model_type == "clip" else theirs.text_config.projection_size
    assert projection_size(config) == expected_size


def test_the_old_text_config_dict_wins_with_its_defaults(tmp_path: Path) -> None:
    settings: dict[str, object] = {
        "text_config": {"hidden_size": 7, "vocab_size": 9},
        "text_config_dict": {"hidden_size": 8},
    }
    theirs: Any = AutoConfig.for_model("clip", **json.loads(json.dumps(settings)))
    ours = read_tower(config_of(tmp_path, model_type="clip", **settings), "text").values
    assert (ours["hidden_size"], ours["vocab_size"]) == (8, 49408)
    assert (theirs.text_config.hidden_size, theirs.text_config.vocab_size) == (8, 49408)


def test_a_dual_encoder_s_spec(tmp_path: Path) -> None:
    spec = read_spec(dual_checkpoint("clip", tmp_path), name="tiny")
    assert (spec.dimension, spec.hidden_size, spec.max_length, spec.pooling) == (40, 48, 77, ())
    assert spec.vision is not None
    assert spec.vision.video.pixels == spec.vision.image
    assert (spec.vision.video.fps, spec.vision.video.min_frames, spec.vision.video.max_frames) == (1, 1, 32)
    assert (spec.vision.image.class_tokens, spec.vision.image.patch_size) == (1, 8)


def test_siglip_s_vectors_are_as_long_as_its_hidden_states(tmp_path: Path) -> None:
    spec = read_spec(dual_checkpoint("siglip2 naflex", tmp_path), name="tiny")
    assert (spec.dimension, spec.max_length, spec.lowercase) == (64, 64, True)
    assert spec.vision is not None
    assert (spec.vision.image.resize, spec.vision.image.max_patches) == ("patch_budget", 24)


def test_a_pooling_for_a_model_that_pools_by_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="a clip model pools by itself"):
        read_spec(dual_checkpoint("clip", tmp_path), name="tiny", pooling="mean")


@pytest.mark.parametrize(
    ("side", "settings", "problem"),
    [
        ("vision", {"hidden_act": "mish"}, "has the activation 'mish'"),
        ("vision", {"num_channels": 4}, "without colours"),
        ("text", {"num_attention_heads": 5}, "which 5 heads cannot share"),
    ],
)
def test_towers_that_cannot_be_run_are_refused(
    side: str, settings: dict[str, object], problem: str, tmp_path: Path
) -> None:
    folder = dual_checkpoint("clip", tmp_path)
    spec = read_spec(folder, name="tiny")
    towers = json.loads((folder / "config.json").read_text())[f"{side}_config"]
    change(folder, **{f"{side}_config": {**towers, **settings}})
    with pytest.raises(UnsupportedCheckpoint, match=problem):
        read_dual_encoder_config(spec)


def test_towers_whose_vectors_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    folder = dual_checkpoint("siglip", tmp_path)
    change(folder, text_config={"hidden_size": 32})
    with pytest.raises(UnsupportedCheckpoint, match="gives texts vectors of 32 and images vectors of 64"):
        read_spec(folder, name="tiny")
