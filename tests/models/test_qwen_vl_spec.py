from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from embedway.errors import InvalidSetting, UnsupportedCheckpoint
from embedway.models.chat_templates import TEMPLATES
from embedway.models.checkpoint import read_spec
from embedway.models.checkpoint_files import missing_config

if TYPE_CHECKING:
    from pathlib import Path

    from embedway.model_spec import ChatSpec, ModelSpec, VisionSpec

TEXT = {"hidden_size": 8, "vocab_size": 152000, "max_position_embeddings": 32768, "rope_theta": 1e6}
TOKENS = {
    "image_token_id": 7,
    "video_token_id": 8,
    "vision_start_token_id": 5,
    "vision_end_token_id": 6,
}
TOWERS = {
    "qwen2_vl": {"patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "hidden_size": 4},
    "qwen2_5_vl": {"patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "hidden_size": 4},
    "qwen3_vl": {"patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2, "hidden_size": 4},
}
NAMES = {
    "qwen2_vl": "Alibaba-NLP/gme-Qwen2-VL-2B-Instruct",
    "qwen3_vl": "Qwen/Qwen3-VL-Embedding-2B",
}
TEMPLATE = "{{ messages }}"
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)


def spec_of(
    folder: Path,
    model_type: str,
    *,
    name: str = "me/mine",
    flat: bool = False,
    chosen: str | None = None,
    **files: Any,
) -> ModelSpec:
    """A folder without modules.json; `files` are further ones by name, dots written as double underscores."""
    text = TEXT if flat else {"text_config": TEXT}
    config = {"model_type": model_type, "vision_config": TOWERS[model_type], **TOKENS, **text}
    contents = {"config__json": config, "chat_template__jinja": TEMPLATE, **files}
    for key, value in contents.items():
        if value is not None:
            written = value if isinstance(value, str) else json.dumps(value)
            (folder / key.replace("__", ".")).write_text(written)
    pooling = None if name in NAMES.values() else "lasttoken"
    return read_spec(folder, name=name, pooling=pooling, chat_template=chosen)


def vision(spec: ModelSpec) -> VisionSpec:
    assert spec.vision is not None
    return spec.vision


def chat(spec: ModelSpec) -> ChatSpec:
    found = vision(spec).chat
    assert found is not None
    return found


@pytest.mark.parametrize("model_type", TOWERS)
@pytest.mark.parametrize("flat", [True, False])
def test_text_settings_are_read_nested_or_flat(tmp_path: Path, model_type: str, flat: bool) -> None:
    spec = spec_of(tmp_path, model_type, flat=flat)
    assert (spec.hidden_size, spec.vocab_size, spec.dimension, spec.max_length) == (8, 152000, 8, 32768)
    found = chat(spec)
    assert (found.image_token_id, found.video_token_id) == (7, 8)
    assert (found.vision_start_token_id, found.vision_end_token_id) == (5, 6)
    assert found.has_timestamps == (model_type == "qwen3_vl")


def test_what_a_folder_leaves_out_is_as_in_transformers(tmp_path: Path) -> None:
    found = vision(spec_of(tmp_path, "qwen2_vl"))
    assert (found.image.resize, found.image.resample, found.image.mean) == ("smart", 3, CLIP_MEAN)
    assert (found.image.min_pixels, found.image.max_pixels) == (56 * 56, 28 * 28 * 1280)
    assert (found.image.patch_size, found.image.merge_size, found.image.temporal_patch_size) == (14, 2, 2)
    assert (found.video.pixels.min_pixels, found.video.pixels.max_pixels) == (128 * 28 * 28, 28 * 28 * 768)
    assert (found.video.fps, found.video.min_frames, found.video.max_frames) == (2, 4, 768)
    assert not found.video.is_budget_of_all
    assert not found.video.includes_last


def test_the_video_budget_of_qwen3_is_of_all_frames(tmp_path: Path) -> None:
    found = vision(spec_of(tmp_path, "qwen3_vl")).video
    assert found.is_budget_of_all
    assert found.includes_last
    assert (found.pixels.min_pixels, found.pixels.max_pixels) == (128 * 32 * 32, 32 * 32 * 768)
    assert (found.pixels.mean, found.pixels.std, found.pixels.patch_size) == ((0.5,) * 3, (0.5,) * 3, 16)


SIZES = [
    {"min_pixels": 100, "max_pixels": 200},
    {"size": {"shortest_edge": 100, "longest_edge": 200}},
    {"size": {"min_pixels": 100, "max_pixels": 200}},
    {"size": {"shortest_edge": 1, "longest_edge": 2}, "min_pixels": 100, "max_pixels": 200},
]


@pytest.mark.parametrize("size", SIZES)
def test_every_form_of_a_pixel_budget_is_read(tmp_path: Path, size: dict[str, Any]) -> None:
    found = vision(spec_of(tmp_path, "qwen2_vl", preprocessor_config__json=size))
    assert (found.image.min_pixels, found.image.max_pixels) == (100, 200)


def test_videos_have_settings_of_their_own(tmp_path: Path) -> None:
    image = {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3]}
    video = {"image_mean": [0.4, 0.5, 0.6], "fps": 1, "min_frames": 2, "max_frames": 9, "do_normalize": True}
    found = vision(
        spec_of(tmp_path, "qwen3_vl", preprocessor_config__json=image, video_preprocessor_config__json=video)
    )
    assert (found.image.mean, found.image.std) == ((0.1, 0.2, 0.3), (1, 2, 3))
    assert found.video.pixels.mean == (0.4, 0.5, 0.6)
    assert (found.video.fps, found.video.min_frames, found.video.max_frames) == (1, 2, 9)


def test_one_file_for_images_and_videos_serves_both_as_in_old_folders(tmp_path: Path) -> None:
    found = vision(spec_of(tmp_path, "qwen2_vl", preprocessor_config__json={"image_mean": [0.1, 0.2, 0.3]}))
    assert found.image.mean == found.video.pixels.mean == (0.1, 0.2, 0.3)


def test_the_processor_s_own_file_wins(tmp_path: Path) -> None:
    whole = {"image_processor": {"min_pixels": 11}, "video_processor": {"fps": 3, "max_pixels": 99999}}
    old = {"min_pixels": 22}
    found = vision(spec_of(tmp_path, "qwen3_vl", processor_config__json=whole, preprocessor_config__json=old))
    assert found.image.min_pixels == 11
    assert (found.video.fps, found.video.pixels.max_pixels) == (3, 99999)


def test_what_is_not_normalised_is_not(tmp_path: Path) -> None:
    values = {"do_normalize": False, "do_rescale": False}
    found = vision(spec_of(tmp_path, "qwen2_vl", preprocessor_config__json=values)).image
    assert (found.rescale_factor, found.mean, found.std) == (1, (0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"patch_size": 16}, "'patch_size'"),
        ({"do_resize": False}, "resizing"),
        ({"image_mean": [0.5]}, "three numbers"),
        ({"max_pixels": "many"}, "max_pixels"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(tmp_path: Path, values: dict[str, Any], problem: str) -> None:
    with pytest.raises(UnsupportedCheckpoint, match=f"preprocessor_config.json .*{problem}"):
        spec_of(tmp_path, "qwen2_vl", preprocessor_config__json=values)


@pytest.mark.parametrize(
    "files",
    [
        {"chat_template__jinja": "mine", "chat_template__json": {"chat_template": "other"}},
        {"chat_template__jinja": None, "chat_template__json": {"chat_template": "mine"}},
        {"chat_template__jinja": None, "tokenizer_config__json": {"chat_template": "mine"}},
        {
            "chat_template__jinja": None,
            "tokenizer_config__json": {
                "chat_template": [{"name": "rag", "template": "x"}, {"name": "default", "template": "mine"}]
            },
        },
    ],
)
def test_the_folder_s_chat_template_is_found(tmp_path: Path, files: dict[str, Any]) -> None:
    assert chat(spec_of(tmp_path, "qwen2_vl", **files)).template == "mine"


def test_a_folder_without_a_chat_template_asks_for_one(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedCheckpoint, match="--chat-template"):
        spec_of(tmp_path, "qwen2_vl", chat_template__jinja=None)


def test_the_operator_s_chat_template_wins(tmp_path: Path) -> None:
    own = tmp_path / "own.jinja"
    own.write_text("own")
    assert chat(spec_of(tmp_path, "qwen2_vl", chosen=str(own))).template == "own"
    assert chat(spec_of(tmp_path, "qwen2_vl", chosen="qwen2-vl")).template == TEMPLATES["qwen2-vl"]
    with pytest.raises(InvalidSetting, match="'nowhere' is not gme-qwen2-vl"):
        spec_of(tmp_path, "qwen2_vl", chosen="nowhere")


def test_gme_has_its_own_prompt_and_pools_its_last_token(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "qwen2_vl", name=NAMES["qwen2_vl"])
    assert (spec.pooling, spec.normalize) == (("lasttoken",), True)
    assert chat(spec).template == TEMPLATES["gme-qwen2-vl"]
    assert spec.prompts == {}


def test_the_module_classes_that_gme_brings_along_are_not_needed(tmp_path: Path) -> None:
    own = [{"idx": 0, "name": "0", "path": "", "type": "custom_st.MultiModalTransformer"}]
    spec = spec_of(tmp_path, "qwen2_vl", name=NAMES["qwen2_vl"], modules__json=own)
    assert (spec.pooling, spec.normalize) == (("lasttoken",), True)
    assert missing_config(tmp_path) is None
    with pytest.raises(UnsupportedCheckpoint, match=r"custom_st\.MultiModalTransformer, which cannot be run here"):
        spec_of(tmp_path, "qwen2_vl", modules__json=own)


def test_qwen3_vl_embedding_has_its_authors_instruction(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "qwen3_vl", name=NAMES["qwen3_vl"])
    assert (spec.pooling, spec.normalize) == (("lasttoken",), True)
    assert spec.prompts[spec.default_prompt_name or ""] == "Represent the user's input."
    assert chat(spec).template == TEMPLATE


def test_a_folder_s_own_prompts_win_over_the_known_instruction(tmp_path: Path) -> None:
    own = {"prompts": {"query": "Find it."}, "default_prompt_name": None}
    spec = spec_of(tmp_path, "qwen3_vl", name=NAMES["qwen3_vl"], config_sentence_transformers__json=own)
    assert (spec.prompts, spec.default_prompt_name) == ({"query": "Find it."}, None)


def test_reading_needs_neither_torch_nor_transformers() -> None:
    code = "import sys, embedway.models.checkpoint; print({'torch', 'transformers', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
