from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from dual_checkpoints import dual_checkpoint
from embedway.errors import UnsupportedCheckpoint
from embedway.models.checkpoint import read_spec
from embedway.models.image_processor import DEFAULTS, Kind, read_pixel_spec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from embedway.model_spec import PixelSpec

CLASSES = {"clip": CLIPImageProcessorPil, "siglip": SiglipImageProcessorPil, "siglip2": Siglip2ImageProcessorPil}


def pixel_spec(folder: Path, kind: Kind, settings: Mapping[str, object]) -> PixelSpec:
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return read_pixel_spec(folder, kind, patch_size=16, class_tokens=0)


@pytest.mark.parametrize("kind", DEFAULTS)
def test_what_the_file_leaves_out_is_what_transformers_takes(kind: Kind, tmp_path: Path) -> None:
    bare = pixel_spec(tmp_path, kind, {})
    CLASSES[kind]().save_pretrained(tmp_path)
    assert read_pixel_spec(tmp_path, kind, patch_size=16, class_tokens=0) == bare


def test_clip_resizes_the_shortest_edge_and_crops(tmp_path: Path) -> None:
    spec = pixel_spec(
        tmp_path, "clip", {"size": 336, "crop_size": 336, "feature_extractor_type": "CLIPFeatureExtractor"}
    )
    assert (spec.resize, spec.height, spec.crop, spec.resample) == ("shortest_edge", 336, (336, 336), 3)
    assert spec == pixel_spec(
        tmp_path, "clip", {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
    )


def test_a_bare_number_is_a_square_for_siglip(tmp_path: Path) -> None:
    spec = pixel_spec(tmp_path, "siglip", {"size": 384})
    assert (spec.resize, spec.height, spec.width, spec.crop) == ("exact", 384, 384, None)
    assert spec == pixel_spec(tmp_path, "siglip", {"size": {"height": 384, "width": 384}})


def test_the_named_processor_decides_not_the_model_s_type(tmp_path: Path) -> None:
    spec = pixel_spec(tmp_path, "clip", {"image_processor_type": "SiglipImageProcessorFast"})
    assert (spec.resize, spec.crop) == ("exact", None)


def test_steps_that_are_switched_off_do_nothing(tmp_path: Path) -> None:
    off = dict.fromkeys(("do_resize", "do_center_crop", "do_rescale", "do_normalize"), False)
    spec = pixel_spec(tmp_path, "clip", off)
    assert (spec.resize, spec.crop, spec.rescale_factor) == ("none", None, 1.0)
    assert (spec.mean, spec.std) == ((0, 0, 0), (1, 1, 1))


def test_the_newer_processor_config_wins(tmp_path: Path) -> None:
    new = {"image_processor": {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 48}}}
    (tmp_path / "processor_config.json").write_text(json.dumps(new))
    assert pixel_spec(tmp_path, "clip", {"size": {"shortest_edge": 96}}).height == 48


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"image_processor_type": "BlipImageProcessor"}, "declares the image processor BlipImageProcessor"),
        ({"size": {"shortest_edge": 224, "longest_edge": 448}}, "for 'size'; a number, or 'height' and 'width'"),
        ({"crop_size": {"height": 224}}, "for 'crop_size'; a number, or 'height' and 'width'"),
        ({"image_mean": [0.5, 0.5]}, "for 'image_mean', which must be a number for each of red, green and blue"),
        ({"resample": 9}, "has 9 for 'resample', which is no filter of Pillow's"),
        ({"do_resize": "yes"}, "which must be true or false"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(settings: dict[str, object], problem: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedCheckpoint, match=problem):
        pixel_spec(tmp_path, "clip", settings)


def test_a_folder_without_an_image_processor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedCheckpoint, match=r"preprocessor_config\.json is missing"):
        read_pixel_spec(tmp_path, "clip", patch_size=16, class_tokens=0)


@pytest.mark.parametrize(
    ("family", "settings", "problem"),
    [
        ("clip", {"crop_size": 48}, "makes images of 48x48 pixels"),
        ("clip", {"do_center_crop": False}, "makes images of any size"),
        ("siglip", {"size": 40}, "makes images of 40x40 pixels"),
        ("siglip2 naflex", {"image_processor_type": "SiglipImageProcessor"}, "resizes by 'exact'"),
        ("siglip2 naflex", {"patch_size": 14}, "has patches of 14 pixels, but the model's have 8"),
    ],
)
def test_images_that_the_tower_has_no_positions_for_are_refused(
    family: str, settings: dict[str, object], problem: str, tmp_path: Path
) -> None:
    path = dual_checkpoint(family, tmp_path) / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    with pytest.raises(UnsupportedCheckpoint, match=problem):
        read_spec(tmp_path, name="tiny")
