"""What the folder of a Qwen-VL model declares of images, videos and its prompt. Imports neither torch nor transformers.

Sizes and normalisation are in `processor_config.json` (transformers 5), or in `preprocessor_config.json` and
`video_preprocessor_config.json`; what they leave out is as in transformers' classes. Patches are as `config.json` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from embedway.model_spec import ChatSpec, PixelSpec, VideoSpec, VisionSpec
from embedway.models.json_files import JsonObject, read_object

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True, slots=True)
class Family:
    """One model type: what transformers has where the folder says nothing."""

    patch_size: int
    video_budget: tuple[int, int]
    """min_pixels and max_pixels: of a frame, or of the whole video where that has timestamps"""
    video_mean: tuple[float, float, float]
    video_std: tuple[float, float, float]
    has_timestamps: bool


_QWEN2 = Family(14, (128 * 28 * 28, 768 * 28 * 28), CLIP_MEAN, CLIP_STD, has_timestamps=False)
FAMILIES = {
    "qwen2_vl": _QWEN2,
    "qwen2_5_vl": _QWEN2,
    "qwen3_vl": Family(16, (128 * 32 * 32, 768 * 32 * 32), HALF, HALF, has_timestamps=True),
}
IMAGE_BUDGET = (56 * 56, 1280 * 28 * 28)
"""min_pixels and max_pixels of an image"""
FPS, MIN_FRAMES, MAX_FRAMES = 2.0, 4, 768


def read_qwen_vl(folder: Path, model_type: str, template: str | None) -> VisionSpec | None:
    """Read `folder`; None for another model type. `template` is the chat template that the operator chose, in Jinja.

    Raises UnsupportedCheckpoint for what is malformed, cannot be followed here, or is not there.
    """
    family = FAMILIES.get(model_type)
    config = read_object(folder, "config.json")
    if family is None or config is None:
        return None
    tower = config.object("vision_config")
    image = read_processor(folder, "image_processor", ("preprocessor_config.json",))
    video = read_processor(folder, "video_processor", ("video_preprocessor_config.json", "preprocessor_config.json"))
    return VisionSpec(
        image=read_pixels(image, tower, family, IMAGE_BUDGET, CLIP_MEAN, CLIP_STD),
        video=VideoSpec(
            pixels=read_pixels(video, tower, family, family.video_budget, family.video_mean, family.video_std),
            is_budget_of_all=family.has_timestamps,
            includes_last=family.has_timestamps,
            fps=video.number("fps", FPS),
            min_frames=video.positive("min_frames") or MIN_FRAMES,
            max_frames=video.positive("max_frames") or MAX_FRAMES,
        ),
        chat=ChatSpec(
            template=template or read_template(folder),
            image_token_id=token_id(config, "image_token_id", 151655),
            video_token_id=token_id(config, "video_token_id", 151656),
            vision_start_token_id=token_id(config, "vision_start_token_id", 151652),
            vision_end_token_id=token_id(config, "vision_end_token_id", 151653),
            has_timestamps=family.has_timestamps,
        ),
    )


def read_processor(folder: Path, part: str, files: tuple[str, ...]) -> JsonObject:
    """`part` of `processor_config.json`, else the first of `files` that is there, as transformers does; or empty."""
    whole = read_object(folder, "processor_config.json")
    if whole is not None and whole.has(part):
        return whole.object(part)
    found = (read_object(folder, name) for name in files)
    return next((values for values in found if values is not None), JsonObject(folder, files[0], {}))


def read_pixels(
    values: JsonObject,
    tower: JsonObject,
    family: Family,
    budget: tuple[int, int],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> PixelSpec:
    """`tower` is the model's `vision_config`, the others are for what `values` leave out."""
    if not values.boolean("do_resize", True):
        values.fail("turns resizing off, but the model reads whole patches only")
    size = values.object("size")
    is_normalized = values.boolean("do_normalize", True)
    patch_size = tower.positive("patch_size", "spatial_patch_size") or family.patch_size
    merge_size = tower.positive("spatial_merge_size") or 2
    temporal_patch_size = tower.positive("temporal_patch_size") or 2
    for key, own in (
        ("patch_size", patch_size),
        ("merge_size", merge_size),
        ("temporal_patch_size", temporal_patch_size),
    ):
        if values.has(key) and values.positive(key) != own:
            values.fail(f"has {values.positive(key)} for {key!r}, but the model's is {own}")
    return PixelSpec(
        resize="smart",
        resample=resample_filter(values),
        min_pixels=values.positive("min_pixels") or size.positive("shortest_edge", "min_pixels") or budget[0],
        max_pixels=values.positive("max_pixels") or size.positive("longest_edge", "max_pixels") or budget[1],
        patch_size=patch_size,
        merge_size=merge_size,
        temporal_patch_size=temporal_patch_size,
        rescale_factor=values.number("rescale_factor", 1 / 255) if values.boolean("do_rescale", True) else 1.0,
        mean=channels(values, "image_mean", mean) if is_normalized else (0.0, 0.0, 0.0),
        std=channels(values, "image_std", std) if is_normalized else (1.0, 1.0, 1.0),
    )


def resample_filter(values: JsonObject) -> int:
    found = values.integer("resample")
    return 3 if found is None else found


def channels(values: JsonObject, key: str, default: tuple[float, float, float]) -> tuple[float, float, float]:
    found = values.values.get(key)
    if found is None:
        return default
    if not isinstance(found, list) or len(found) != 3 or not all(isinstance(value, int | float) for value in found):
        values.fail(f"has {found!r} for {key!r}, which must be three numbers")
    return float(found[0]), float(found[1]), float(found[2])


def token_id(config: JsonObject, key: str, default: int) -> int:
    found = config.integer(key)
    return default if found is None else found


def read_template(folder: Path) -> str:
    """The folder's own chat template: the default one where there are several. Raises UnsupportedCheckpoint."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        values = read_object(folder, name)
        if values is not None and values.has("chat_template"):
            return default_template(values)
    return JsonObject(folder, "chat_template.jinja", {}).fail(
        "is missing, and no other file has a chat template: give one with --chat-template"
    )


def default_template(values: JsonObject) -> str:
    """A template, or a list of `{name, template}`."""
    found = values.values["chat_template"]
    if isinstance(found, list):
        named = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else values.fail("has a 'chat_template' without a default one")
