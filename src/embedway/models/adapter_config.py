"""adapter_config.json of a peft folder: what a LoRA adapter declares of itself, and what of it cannot be followed.

As peft 0.21 reads it. A field is followed, says nothing about the vectors, or is refused: none is passed over.
"""

from __future__ import annotations

import math
import re
from typing import Any

import msgspec

from embedway.adapter_ref import CONFIG

TRAINING_ONLY = frozenset(
    {
        *("auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config"),
        *("fan_in_fan_out", "inference_mode", "loftq_config", "lora_dropout", "lora_ga_config", "megatron_core"),
        *("peft_version", "qalora_group_size", "revision", "runtime_config", "task_type"),
    }
)
"""They change how an adapter is trained, started or merged, not what it computes afterwards."""
NOT_FOLLOWED = {
    "alora_invocation_tokens": "it is an activated LoRA (alora_invocation_tokens), which works from a token on",
    "arrow_config": "it routes between adapters (arrow_config)",
    "kasa_config": "it is KaSA (kasa_config), which changes the base model's weights",
    "layer_replication": "it repeats layers of the base model (layer_replication)",
    "lora_bias": "it adds a bias (lora_bias)",
    "target_parameters": "it changes parameters that are no linear layer's (target_parameters)",
    "trainable_token_indices": "it trains tokens of its own (trainable_token_indices)",
    "use_bdlora": "it is of the block-diagonal kind (use_bdlora)",
    "use_dora": "it is DoRA (use_dora), and only plain LoRA and rsLoRA are computed here",
    "use_qalora": "it is QA-LoRA (use_qalora)",
}
"""Why, by the field that asks for it."""
HARMLESS_STARTS = (True, False, "gaussian", "eva", "orthogonal", "mica")
"""Values of init_lora_weights that leave the base model as it was."""
ALL_LINEAR = "all-linear"


class AdapterConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What is followed, with peft's defaults."""

    peft_type: str | None = None
    r: int = 8
    lora_alpha: float = 8
    use_rslora: bool = False
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    bias: str = "none"
    modules_to_save: list[str] | None = None
    init_lora_weights: bool | str = True

    def rank(self, module: str) -> int:
        """That the config declares for a module"""
        patterns = self.rank_pattern or {}
        return patterns.get(matching_pattern(patterns, module), self.r)

    def scale(self, module: str) -> float:
        """What the change of a module is multiplied by"""
        patterns = self.alpha_pattern or {}
        alpha, rank = patterns.get(matching_pattern(patterns, module), self.lora_alpha), self.rank(module)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank

    def has_target(self, module: str) -> bool:
        """Whether the module is one that the adapter declares to change"""
        if self.exclude_modules and is_named(self.exclude_modules, module):
            return False
        if self.target_modules is None:
            return False
        if isinstance(self.target_modules, str):
            return self.target_modules == ALL_LINEAR or is_named(self.target_modules, module)
        return is_named(self.target_modules, module) and self._has_layer(module)

    def _has_layer(self, module: str) -> bool:
        if self.layers_to_transform is None or self.layers_to_transform == []:
            return True
        patterns = [self.layers_pattern] if isinstance(self.layers_pattern, str) else self.layers_pattern
        if patterns:
            found = (re.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", module) for pattern in patterns)
            match = next(filter(None, found), None)
        else:
            match = re.match(r".*?\.[^.]*\.(\d+)\.", module)
        wanted = self.layers_to_transform
        return match is not None and int(match[1]) in (wanted if isinstance(wanted, list) else [wanted])


def parse_adapter_config(data: bytes) -> AdapterConfig:
    """Raise ValueError for what is no config, or asks for more than LoRA of linear layers."""
    try:
        fields = msgspec.json.decode(data, type=dict[str, Any])
        config = msgspec.convert({key: value for key, value in fields.items() if value is not None}, AdapterConfig)
    except msgspec.DecodeError as error:  # a ValidationError is one
        raise ValueError(f"{CONFIG} cannot be read: {error}") from error
    if config.peft_type is None or config.peft_type.upper() != "LORA":
        raise ValueError(f"its peft_type is {config.peft_type!r}, and only 'LORA' can be served")
    check_known(fields)
    check_start(config.init_lora_weights)
    check_numbers(config)
    if config.bias != "none":
        raise ValueError(f"it changes biases (bias is {config.bias!r})")
    if config.modules_to_save:
        raise ValueError(why_not_saved(config.modules_to_save))
    if config.target_modules is None:
        raise ValueError(f"{CONFIG} does not say target_modules")
    return config


def check_known(fields: dict[str, Any]) -> None:
    """Refuse what is set and neither followed nor without effect; peft writes fields that are not set, too."""
    known = TRAINING_ONLY.union(AdapterConfig.__struct_fields__)
    for field, value in fields.items():
        if value and field not in known:
            raise ValueError(NOT_FOLLOWED.get(field, f"{CONFIG} sets {field!r}, which cannot be followed here"))


def check_start(start: bool | str) -> None:
    """PiSSA and its kin move a part of the base model's weights into the adapter before it is trained."""
    if start not in HARMLESS_STARTS:
        raise ValueError(
            f"its init_lora_weights is {start!r}, so that it belongs to base weights that were changed with it; save "
            "it with peft's path_initial_model_for_weight_conversion"
        )


def check_numbers(config: AdapterConfig) -> None:
    for rank in (config.r, *(config.rank_pattern or {}).values()):
        if rank < 1:
            raise ValueError(f"{CONFIG} has the rank {rank}, which must be at least 1")


def why_not_saved(modules: list[str]) -> str:
    named = ", ".join(map(repr, modules))
    if modules == ["pooler"]:
        return (
            f"it trained a module of its own (modules_to_save: {named}), which no embedding is made with: train without"
        )
    return f"it brings whole modules of its own (modules_to_save: {named}), and only LoRA can be served"


def matching_pattern(patterns: dict[str, Any], module: str) -> str:
    """The first key that is the module's name, or its end, as a regular expression; the name where none is."""
    return next((key for key in patterns if re.match(rf"(.*\.)?({key})$", module)), module)


def is_named(names: list[str] | str, module: str) -> bool:
    """By a regular expression for the whole name, or a list of whole names and ends."""
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)
