"""What runs which checkpoint: `load_model` makes a ModelSpec into an EmbeddingModel. Imports torch only where needed.

1. An encoder of BERT's kind on a CPU: the native library, without torch (`native_loading.py`).
2. The same on CUDA, or where the library is missing or cannot run it: fused in torch (`bert_family.py`).
3. A dual encoder of texts and images: its towers in torch (`dual_encoder_loading.py`).
4. A vision-language model: `vision_language_loading.py`.
5. Everything else: a transformers model (`transformers_loading.py`).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from embedway.errors import TorchNotInstalled
from embedway.kernels import native
from embedway.models import bert_config, dual_encoder_config, qwen_vl_spec
from embedway.models.bert_config import read_encoder_config
from embedway.models.devices import resolve_device
from embedway.models.dual_encoder_config import is_dual_encoder
from embedway.models.native_loading import load_native
from embedway.models.weight_dtype import check_dtype

if TYPE_CHECKING:
    from collections.abc import Mapping

    from embedway.model_spec import ModelSpec
    from embedway.models.bert_config import EncoderConfig
    from embedway.models.interface import EmbeddingModel

logger = logging.getLogger("embedway.models")

EXTRA = ("torch", "transformers")
"""The packages of the extra `torch`"""
KINDS: Mapping[str, tuple[str, ...]] = {
    "encoders of BERT's kind, on a CPU in the native library": tuple(bert_config.FAMILIES),
    "dual encoders of texts and images": tuple(dual_encoder_config.DEFAULTS),
    "vision-language models": tuple(qwen_vl_spec.FAMILIES),
    "any other text model of transformers": (),
}
"""What there is, in words → its `model_type`s"""


def load_model(spec: ModelSpec, *, dtype: str, device: str, threads: int = 1) -> EmbeddingModel:
    """Load a checkpoint from `spec.folder`, never from the network.

    dtype is `auto`, `float32`, `bfloat16` or `float16`; `auto` is measured for BERT's kind and dual encoders on a CPU
    and float32 for others there, and on CUDA the checkpoint's own 16-bit type, or bfloat16. device is `auto`, `cpu`,
    `cuda` or `cuda:<n>`. threads are those that the model uses on a CPU.

    Raises UnsupportedCheckpoint where the folder cannot be loaded whole, InvalidSetting for a dtype or device that
    cannot be used, TorchNotInstalled where torch or transformers is needed and missing.
    """
    if dtype != "auto":
        check_dtype(dtype)
    config = read_encoder_config(spec)
    try:
        place = resolve_device(device)
        if is_dual_encoder(spec.model_type):
            from embedway.models.dual_encoder_loading import load_dual_encoder

            return load_dual_encoder(spec, dtype=dtype, device=place, threads=threads)
        if place == "cpu" and config is not None and has_library():
            model = load_native(spec, config, dtype=dtype, threads=threads)
            if model is not None:
                return model
        return load_in_torch(spec, config, dtype=dtype, device=place, threads=threads)
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        what = f"{spec.name} ({spec.model_type}, device {device})"
        raise TorchNotInstalled(what=what, package=error.name) from error


def has_library() -> bool:
    """Whether the native library is there; says once a model where it is not."""
    if native.gemm_types():
        return True
    logger.warning(
        "embedway is installed without its native library (there was neither a wheel for this platform nor a C++ "
        "compiler): the model runs on torch, slower. With a compiler: python -m embedway.kernels.compile"
    )
    return False


def load_in_torch(
    spec: ModelSpec, config: EncoderConfig | None, *, dtype: str, device: str, threads: int
) -> EmbeddingModel:
    if config is not None:
        from embedway.models.bert_family import load_bert_family

        model = load_bert_family(spec, config, dtype=dtype, device=device, threads=threads)
        if model is not None:
            return model
    if spec.vision is not None and spec.vision.chat is not None:
        from embedway.models.vision_language_loading import load_vision_language

        return load_vision_language(spec, dtype=dtype, device=device, threads=threads)
    from embedway.models.transformers_loading import load_with_transformers

    return load_with_transformers(spec, dtype=dtype, device=device, threads=threads)
