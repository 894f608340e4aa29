"""How a dual encoder's image processor makes pixels: its JSON → PixelSpec. No torch, no transformers.

The processor's settings are in `preprocessor_config.json`, or under `image_processor` in the newer
`processor_config.json`, which wins where both are there, as in transformers 5.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from embedway.errors import UnsupportedCheckpoint
from embedway.model_spec import PixelSpec
from embedway.models.json_files import JsonObject, read_object

if TYPE_CHECKING:
    from collections.abc import Mapping

Kind = Literal["clip", "siglip", "siglip2"]

KINDS: Mapping[str, Kind] = {
    "CLIPImageProcessor": "clip",
    "CLIPFeatureExtractor": "clip",
    "SiglipImageProcessor": "siglip",
    "Siglip2ImageProcessor": "siglip2",
}
"""By the class's name without `Fast` or `Pil`: these only say what computes it"""

CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
HALVES = [0.5, 0.5, 0.5]
DEFAULTS: Mapping[Kind, Mapping[str, object]] = {
    "clip": {
        "size": {"shortest_edge": 224},
        "crop_size": {"height": 224, "width": 224},
        "do_center_crop": True,
        "resample": 3,
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
    },
    "siglip": {"size": {"height": 224, "width": 224}, "resample": 3, "image_mean": HALVES, "image_std": HALVES},
    "siglip2": {"max_num_patches": 256, "patch_size": 16, "resample": 2, "image_mean": HALVES, "image_std": HALVES},
}
"""What transformers 5.23's classes take where the file says nothing"""

FILTERS = range(6)
"""Pillow's resampling filters"""


def read_pixel_spec(folder: Path, model_type: Kind, *, patch_size: int, class_tokens: int) -> PixelSpec:
    """The settings of the image processor in `folder`, which is that of `model_type` unless it says otherwise.

    Raises UnsupportedCheckpoint, naming the file, for a processor or a setting that is not known here.
    """
    found = find_image_processor(folder)
    kind = processor_kind(found) or model_type
    config = JsonObject(found.folder, found.name, {**DEFAULTS[kind], **_without_nulls(found)})
    resize, height, width = read_resize(config, kind)
    if kind == "siglip2" and config.integer("patch_size") != patch_size:
        config.fail(f"has patches of {config.integer('patch_size')} pixels, but the model's have {patch_size}")
    has_norm = config.boolean("do_normalize", True)
    return PixelSpec(
        resize=resize,
        height=height,
        width=width,
        crop=crop_size(config) if config.boolean("do_center_crop", False) else None,
        resample=read_filter(config),
        max_patches=(config.positive("max_num_patches") or 0) if kind == "siglip2" else 0,
        patch_size=patch_size,
        class_tokens=class_tokens,
        rescale_factor=config.number("rescale_factor", 1 / 255) if config.boolean("do_rescale", True) else 1.0,
        mean=read_colours(config, "image_mean") if has_norm else (0.0, 0.0, 0.0),
        std=read_colours(config, "image_std") if has_norm else (1.0, 1.0, 1.0),
    )


def find_image_processor(folder: Path) -> JsonObject:
    """Its settings. Raises UnsupportedCheckpoint where there are none."""
    processor = read_object(folder, "processor_config.json")
    if processor is not None and processor.has("image_processor"):
        return processor.object("image_processor")
    own = read_object(folder, "preprocessor_config.json")
    if own is None:
        raise UnsupportedCheckpoint(folder=folder, problem="preprocessor_config.json is missing")
    return own


def processor_kind(config: JsonObject) -> Kind | None:
    """None where the file names no class: then the model's type decides, as in transformers."""
    name = config.text("image_processor_type") or config.text("feature_extractor_type")
    if name is None:
        return None
    plain = name.removesuffix("Fast").removesuffix("Pil")
    if plain not in KINDS:
        config.fail(f"declares the image processor {name}, which is not known here; these are: {', '.join(KINDS)}")
    return KINDS[plain]


def read_resize(
    config: JsonObject, kind: Kind
) -> tuple[Literal["none", "exact", "shortest_edge", "patch_budget"], int, int]:
    """How, and to which height and width (a shortest edge as height; neither for a patch budget)."""
    if not config.boolean("do_resize", True):
        return "none", 0, 0
    if kind == "siglip2":
        return "patch_budget", 0, 0
    size = config.values["size"]
    if isinstance(size, int) and not isinstance(size, bool):
        # CLIP's class alone reads a bare number as the shortest edge
        return ("shortest_edge", size, 0) if kind == "clip" else ("exact", size, size)
    sides = config.object("size")
    if set(_without_nulls(sides)) == {"shortest_edge"}:
        return "shortest_edge", sides.positive("shortest_edge") or 0, 0
    return "exact", *height_and_width(config, sides, "size")


def crop_size(config: JsonObject) -> tuple[int, int]:
    size = config.values.get("crop_size")
    if isinstance(size, int) and not isinstance(size, bool):
        return size, size
    return height_and_width(config, config.object("crop_size"), "crop_size")


def height_and_width(config: JsonObject, sides: JsonObject, key: str) -> tuple[int, int]:
    height, width = sides.positive("height"), sides.positive("width")
    if height is None or width is None or len(_without_nulls(sides)) != 2:
        config.fail(f"has {config.values[key]!r} for {key!r}; a number, or 'height' and 'width', can be followed here")
    return height, width


def read_filter(config: JsonObject) -> int:
    resample = config.integer("resample")
    if resample is None or resample not in FILTERS:
        config.fail(f"has {resample} for 'resample', which is no filter of Pillow's")
    return resample


def read_colours(config: JsonObject, key: str) -> tuple[float, float, float]:
    values = config.values[key]
    if isinstance(values, int | float) and not isinstance(values, bool):
        values = [values] * 3
    if not isinstance(values, list) or len(values) != 3 or not all(isinstance(value, int | float) for value in values):
        config.fail(f"has {values!r} for {key!r}, which must be a number for each of red, green and blue")
    return float(values[0]), float(values[1]), float(values[2])


def _without_nulls(config: JsonObject) -> dict[str, object]:
    return {key: value for key, value in config.values.items() if value is not None}
