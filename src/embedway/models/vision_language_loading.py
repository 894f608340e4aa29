"""A checkpoint of the Qwen-VL kind → a VisionLanguageModel, checked against transformers' own forward."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from embedway.errors import UnsupportedCheckpoint
from embedway.models.cpu_linear import pack_linears
from embedway.models.dense import load_dense_modules
from embedway.models.self_check import positions_stand_alone
from embedway.models.torch_types import TORCH_TYPES
from embedway.models.transformers_loading import load_transformer, quiet_transformers
from embedway.models.vision_language import VisionLanguageEncoder, VisionLanguageModel
from embedway.models.vision_self_check import VisionSelfCheck
from embedway.models.weight_dtype import check_dtype, declared_dtype

if TYPE_CHECKING:
    from embedway.model_spec import ChatSpec, ModelSpec, VisionSpec


def load_vision_language(spec: ModelSpec, *, dtype: str, device: str, threads: int) -> VisionLanguageModel:
    """dtype may be `auto`; device is `cpu`, `cuda` or `cuda:<n>`. Raises UnsupportedCheckpoint."""
    assert spec.vision is not None
    assert spec.vision.chat is not None
    torch.set_num_threads(threads)
    place = torch.device(device)
    automatic = "float32" if place.type == "cpu" else declared_dtype(spec)
    weight_dtype = TORCH_TYPES[automatic if dtype == "auto" else check_dtype(dtype)]
    with quiet_transformers():
        encoder = load_encoder(spec, spec.vision, spec.vision.chat, weight_dtype, place)
    return VisionLanguageModel(spec, encoder, load_dense_modules(spec), dtype=weight_dtype, device=place)


def load_encoder(
    spec: ModelSpec, vision: VisionSpec, chat: ChatSpec, dtype: torch.dtype, device: torch.device
) -> VisionLanguageEncoder:
    """There is no second way to run such a model, so one that differs is refused."""
    model = load_transformer(spec, dtype, device)
    if not positions_stand_alone(model, spec.max_length):
        problem = "its rotary positions depend on the longest sequence of a batch"
        raise UnsupportedCheckpoint(folder=spec.folder, problem=problem)
    check = VisionSelfCheck(model, spec, vision, chat)
    encoder = VisionLanguageEncoder(model, vision, chat)
    pack_linears(model)
    if not check.passes(encoder):
        problem = f"its {spec.model_type} model gives other vectors here than in transformers, so it is not served"
        raise UnsupportedCheckpoint(folder=spec.folder, problem=problem)
    return encoder
