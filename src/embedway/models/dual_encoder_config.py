"""What a CLIP, SigLIP or SigLIP2 folder declares of its two towers. No torch: the supervisor reads it too.

`config.json` may leave out what is the type's default, and published ones do, so the defaults of transformers'
configuration classes stand here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from embedway.errors import UnsupportedCheckpoint
from embedway.models.json_files import JsonObject, read_object

if TYPE_CHECKING:
    from collections.abc import Mapping

    from embedway.model_spec import ModelSpec

HiddenActivation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"]
Side = Literal["text", "vision"]

ACTIVATIONS: Mapping[str, HiddenActivation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""transformers' names → ours"""

CLIP_TOWER = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "num_hidden_layers": 12}
SIGLIP_TOWER = {
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "num_hidden_layers": 12,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
}
SIGLIP_TEXT = {**SIGLIP_TOWER, "vocab_size": 32000, "max_position_embeddings": 64}
DEFAULTS: Mapping[str, Mapping[Side, Mapping[str, object]]] = {
    "clip": {
        "text": {
            **CLIP_TOWER,
            "hidden_size": 512,
            "intermediate_size": 2048,
            "num_attention_heads": 8,
            "vocab_size": 49408,
            "max_position_embeddings": 77,
            "pad_token_id": 1,
            "eos_token_id": 49407,
        },
        "vision": {
            **CLIP_TOWER,
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_attention_heads": 12,
            "image_size": 224,
            "patch_size": 32,
        },
    },
    "siglip": {"text": SIGLIP_TEXT, "vision": {**SIGLIP_TOWER, "image_size": 224, "patch_size": 16}},
    "siglip2": {"text": SIGLIP_TEXT, "vision": {**SIGLIP_TOWER, "patch_size": 16, "num_patches": 256}},
}
"""By model type and tower, as transformers 5.23 has them"""

CLIP_PROJECTION = 512
"""The default of `projection_dim`"""


@dataclass(frozen=True, slots=True)
class TowerShape:
    """One transformer."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    activation: HiddenActivation
    layer_norm_eps: float


@dataclass(frozen=True, slots=True)
class DualEncoderConfig:
    """Both towers."""

    model_type: str
    text: TowerShape
    vision: TowerShape
    vocab_size: int
    num_positions: int
    """Tokens that the text tower has positions for"""
    eos_token_id: int | None
    """CLIP pools there; 2 in old folders, which then means the largest id of the text"""
    projection_size: int
    """Length of both towers' vectors"""
    patch_size: int
    num_patches: int
    """Positions of patches that the vision tower has learned, a square of them"""
    image_size: int | None
    """Height and width of every image; None where they vary (NaFlex)"""


def is_dual_encoder(model_type: str | None) -> bool:
    return model_type in DEFAULTS


def read_tower(config: JsonObject, side: Side) -> JsonObject:
    """A tower's settings out of `config.json` as it stands, with the type's defaults."""
    defaults = DEFAULTS[config.text("model_type") or ""][side]
    values = {**defaults, **_without_nulls(config.object(f"{side}_config"))}
    if config.has(f"{side}_config_dict"):
        # transformers: this old key, completed by the defaults, wins
        values |= {**defaults, **_without_nulls(config.object(f"{side}_config_dict"))}
    return JsonObject(config.folder, config.name, values)


def projection_size(config: JsonObject) -> int:
    """Length of the vectors, from `config.json` as it stands."""
    if config.text("model_type") == "clip":
        return config.positive("projection_dim") or CLIP_PROJECTION
    text = read_tower(config, "text")
    size = text.positive("projection_size", "hidden_size") or 0
    if size != (width := read_tower(config, "vision").positive("hidden_size")):
        config.fail(f"gives texts vectors of {size} and images vectors of {width}")
    return size


def read_dual_encoder_config(spec: ModelSpec) -> DualEncoderConfig:
    """Raises UnsupportedCheckpoint."""
    config = read_object(Path(spec.folder), "config.json")
    if config is None:
        raise UnsupportedCheckpoint(folder=spec.folder, problem="config.json is missing")
    text, vision = read_tower(config, "text"), read_tower(config, "vision")
    if vision.integer("num_channels") not in (None, 3) or not vision.boolean("vision_use_head", True):
        config.fail("declares a vision tower without colours or without its pooling head, which cannot be run here")
    patch_size, image_size = required(vision, "patch_size"), vision.positive("image_size")
    return DualEncoderConfig(
        model_type=spec.model_type,
        text=tower_shape(text),
        vision=tower_shape(vision),
        vocab_size=required(text, "vocab_size"),
        num_positions=required(text, "max_position_embeddings"),
        eos_token_id=text.integer("eos_token_id"),
        projection_size=projection_size(config),
        patch_size=patch_size,
        num_patches=vision.positive("num_patches") or (required(vision, "image_size") // patch_size) ** 2,
        image_size=None if spec.model_type == "siglip2" else image_size,
    )


def tower_shape(tower: JsonObject) -> TowerShape:
    name = tower.text("hidden_act") or ""
    if name not in ACTIVATIONS:
        tower.fail(f"has the activation {name!r}; known are {', '.join(ACTIVATIONS)}")
    shape = TowerShape(
        hidden_size=required(tower, "hidden_size"),
        intermediate_size=required(tower, "intermediate_size"),
        num_layers=required(tower, "num_hidden_layers"),
        num_heads=required(tower, "num_attention_heads"),
        activation=ACTIVATIONS[name],
        layer_norm_eps=tower.number("layer_norm_eps", 0.0),
    )
    if shape.hidden_size % shape.num_heads:
        tower.fail(f"has {shape.hidden_size} for 'hidden_size', which {shape.num_heads} heads cannot share")
    return shape


def required(config: JsonObject, key: str) -> int:
    return config.positive(key) or config.fail(f"has no {key!r}")


def _without_nulls(config: JsonObject) -> dict[str, object]:
    return {key: value for key, value in config.values.items() if value is not None}
