"""A checkpoint of BERT's kind → a NativeModel. No torch."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from embedway.kernels import native
from embedway.models.bert_weights import read_weights
from embedway.models.dense import load_dense_modules
from embedway.models.native_model import NativeModel
from embedway.models.weight_dtype import StartCheck, load_in_best_type

if TYPE_CHECKING:
    from embedway.kernels.native import EncoderWeights, GemmType
    from embedway.model_spec import ModelSpec
    from embedway.models.bert_config import EncoderConfig
    from embedway.models.interface import EmbeddingModel

logger = logging.getLogger("embedway.models")


def load_native(spec: ModelSpec, config: EncoderConfig, *, dtype: str, threads: int) -> EmbeddingModel | None:
    """The model in the native library; None where that lacks the type or the shape, or fails its check.

    Raises UnsupportedCheckpoint where the folder cannot be loaded whole.
    """
    types = native.gemm_types()
    if dtype != "auto" and dtype not in types:
        return None
    weights, dense = read_weights(spec, config), load_dense_modules(spec)

    def make(gemm_type: GemmType, weights: EncoderWeights, threads: int) -> NativeModel:
        encoder = native.NativeEncoder(config.shape, weights, gemm_type=gemm_type, threads=threads)
        backend = f"native ({encoder.instruction_set})"
        return NativeModel(spec, config, encoder, dense, dtype=gemm_type, backend=backend)

    check = StartCheck.of(spec, config, weights, dense)
    try:
        model = load_in_best_type(dtype, types, spec=spec, weights=weights, make=make, threads=threads, check=check)
    except ValueError as error:  # a shape that the library does not compute
        logger.warning("%s: the native library does not run it: %s", spec.name, error)
        return None
    if model is None:
        logger.error("%s: the native library gives wrong vectors on this machine and is not used", spec.name)
    return model
