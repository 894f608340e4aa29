"""The ways in which a text model is run on a CPU, in float32: one checkpoint through each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from embedway.kernels import native
from embedway.models.bert_config import read_encoder_config
from embedway.models.bert_family import load_bert_family
from embedway.models.bert_weights import read_weights
from embedway.models.native_loading import load_native
from embedway.models.native_model import NativeModel
from embedway.models.reference_encoder import ReferenceEncoder
from embedway.models.transformers_loading import load_with_transformers

if TYPE_CHECKING:
    from embedway.model_spec import ModelSpec
    from embedway.models.interface import EmbeddingModel

needs_library = pytest.mark.skipif(not native.gemm_types(), reason="the native library is not built")


def in_library(spec: ModelSpec, *, threads: int = 1) -> EmbeddingModel | None:
    config = read_encoder_config(spec)
    assert config is not None
    return load_native(spec, config, dtype="float32", threads=threads)


def in_numpy(spec: ModelSpec) -> EmbeddingModel:
    config = read_encoder_config(spec)
    assert config is not None
    encoder = ReferenceEncoder(config.shape, read_weights(spec, config))
    return NativeModel(spec, config, encoder, (), dtype="float32", backend="numpy")


def in_torch(spec: ModelSpec) -> EmbeddingModel | None:
    config = read_encoder_config(spec)
    assert config is not None
    return load_bert_family(spec, config, dtype="float32", device="cpu", threads=1)


def with_transformers(spec: ModelSpec) -> EmbeddingModel:
    return load_with_transformers(spec, dtype="float32", device="cpu", threads=1)
