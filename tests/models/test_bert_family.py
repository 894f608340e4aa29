"""The encoders of BERT's kind against transformers: fused in torch, native, and in numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import torch
import transformers

from checkpoints import tiny_checkpoint, tiny_spec
from embedway.kernels import native
from embedway.models import bert_family
from embedway.models.bert_config import read_encoder_config
from embedway.models.bert_family import FusedBert, load_bert_family
from embedway.models.bert_weights import read_weights
from embedway.models.native_loading import load_native
from embedway.models.native_model import NativeModel
from embedway.models.reference_encoder import ReferenceEncoder, bias_of
from embedway.models.text_model import TextModel
from embedway.models.transformers_loading import quiet_transformers
from packed_batches import packed, random_sequences

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from embedway.model_spec import ModelSpec, Pooling
    from embedway.models.bert_config import EncoderConfig
    from embedway.models.interface import EmbeddingModel

LENGTHS = [3, 17, 1, 40, 12, 17, 64, 300]
"""The longest reaches beyond MPNet's last distance."""


class Case(NamedTuple):
    family: str
    pooling: Pooling = "mean"
    config: Mapping[str, Any] = {}
    dtype: torch.dtype = torch.float32


CASES = {
    "bert": Case("bert"),
    "roberta": Case("roberta", "max"),
    "xlm-roberta": Case("xlm-roberta", "cls"),
    "camembert": Case("camembert"),
    "electra without a projection": Case("electra"),
    "mpnet": Case("mpnet"),
    "distilbert": Case("distilbert", "cls"),
    "last token": Case("bert", "lasttoken"),
    "weighted mean": Case("bert", "weightedmean"),
    "relu": Case("distilbert", config={"activation": "relu"}),
    "tanh gelu": Case("bert", config={"hidden_act": "gelu_new"}),
    "fast gelu": Case("bert", config={"hidden_act": "gelu_fast"}),
    "large eps": Case("roberta", config={"layer_norm_eps": 1e-2}),
    "one head": Case("bert", config={"num_attention_heads": 1}),
    "heads of 64": Case("bert", config={"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 100}),
    "stored in float16": Case("bert", dtype=torch.float16),
    "stored in bfloat16": Case("mpnet", dtype=torch.bfloat16),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def in_torch(spec: ModelSpec, config: EncoderConfig) -> EmbeddingModel | None:
    return load_bert_family(spec, config, dtype="float32", device="cpu", threads=1)


def in_library(spec: ModelSpec, config: EncoderConfig) -> EmbeddingModel | None:
    return load_native(spec, config, dtype="float32", threads=1)


def in_numpy(spec: ModelSpec, config: EncoderConfig) -> EmbeddingModel:
    encoder = ReferenceEncoder(config.shape, read_weights(spec, config))
    return NativeModel(spec, config, encoder, (), dtype="float32", backend="numpy")


needs_library = pytest.mark.skipif(not native.gemm_types(), reason="the native library is not built")
every_way = pytest.mark.parametrize("load", [in_torch, pytest.param(in_library, marks=needs_library), in_numpy])


def checkpoint(case: Case, folder: Path) -> ModelSpec:
    tiny_checkpoint(
        case.family, folder, pooling=case.pooling, config=case.config, dtype=case.dtype, max_seq_length=max(LENGTHS)
    )
    return tiny_spec(folder)


def loaded(spec: ModelSpec, load: Callable[[ModelSpec, EncoderConfig], EmbeddingModel | None]) -> EmbeddingModel:
    config = read_encoder_config(spec)
    assert config is not None
    model = load(spec, config)
    assert model is not None
    return model


@torch.inference_mode()
def one_by_one(spec: ModelSpec, sequences: list[list[int]]) -> np.ndarray:
    """transformers' eager attention in float32, each sequence in a forward of its own, pooled by hand."""
    with quiet_transformers():
        model = transformers.AutoModel.from_pretrained(
            spec.folder, attn_implementation="eager", dtype=torch.float32
        ).eval()
    vectors = []
    for sequence in sequences:
        states = model(input_ids=torch.tensor([sequence]))[0][0].double()
        weights = torch.arange(1, len(states) + 1).double()[:, None]
        by_mode = {
            "mean": states.mean(0),
            "cls": states[0],
            "lasttoken": states[-1],
            "max": states.amax(0),
            "weightedmean": (states * weights).sum(0) / weights.sum(),
        }
        vectors.append(by_mode[spec.pooling[0]].float().numpy())
    return np.stack(vectors)


@every_way
@every_case
def test_vectors_equal_transformers_one_by_one(load: Callable, case: Case, tmp_path: Path) -> None:
    spec = checkpoint(case, tmp_path)
    sequences = random_sequences(LENGTHS, spec.vocab_size)
    vectors = loaded(spec, load).embed(packed(sequences))
    np.testing.assert_allclose(vectors, one_by_one(spec, sequences), atol=1e-5, rtol=0)


@every_way
@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_a_vector_does_not_depend_on_its_neighbours(load: Callable, family: str, tmp_path: Path) -> None:
    spec = checkpoint(CASES[family], tmp_path)
    sequences = random_sequences(LENGTHS, spec.vocab_size)
    model = loaded(spec, load)
    together = model.embed(packed(sequences))
    unit = np.abs(together).max()
    for sequence, vector in zip(sequences, together, strict=True):
        np.testing.assert_allclose(model.embed(packed([sequence]))[0], vector, atol=1e-6 * unit, rtol=0)


@every_way
def test_a_left_out_prompt_changes_the_mean_only(load: Callable, tmp_path: Path) -> None:
    spec = checkpoint(CASES["bert"], tmp_path)
    model = loaded(spec, load)
    sequences = random_sequences([9, 6], spec.vocab_size)
    whole = model.embed(packed(sequences))
    without = model.embed(packed(sequences, pool_starts=[4, 0]))
    assert np.abs(whole[0] - without[0]).max() > 0.01
    np.testing.assert_allclose(whole[1], without[1], atol=1e-6)


@pytest.mark.parametrize("pays", [True, False])
@pytest.mark.parametrize("name", ["bert", "mpnet", "relu", "tanh gelu"])
def test_oneDNN_s_layout_changes_no_vector(  # noqa: N802
    name: str, pays: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not bert_family.can_pack(torch.float32):
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(bert_family, "packing_gain", lambda weight, bias: 2.0 if pays else 0.5)
    spec = checkpoint(CASES[name], tmp_path)
    model = loaded(spec, in_torch)
    assert isinstance(model, TextModel)
    assert isinstance(model.encoder, FusedBert)
    assert model.encoder.is_packed is pays
    sequences = random_sequences(LENGTHS, spec.vocab_size)
    np.testing.assert_allclose(model.embed(packed(sequences)), one_by_one(spec, sequences), atol=1e-5, rtol=0)


def test_mpnet_s_square_of_biases_is_made_once_for_all_shorter_lengths(tmp_path: Path) -> None:
    spec = checkpoint(CASES["mpnet"], tmp_path)
    config = read_encoder_config(spec)
    assert config is not None
    weights = read_weights(spec, config)
    encoder = FusedBert(config, weights, dtype=torch.float32, device=torch.device("cpu"), pack=False)
    longest = encoder.position_bias(300)
    assert weights.relative_bias is not None
    np.testing.assert_array_equal(longest.numpy(), bias_of(weights.relative_bias, 300))
    assert encoder.position_bias(3).data_ptr() == longest.data_ptr()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bit_types_keep_a_float32_residual_stream(tmp_path: Path, dtype: str) -> None:
    spec = checkpoint(CASES["bert"], tmp_path)
    config = read_encoder_config(spec)
    assert config is not None
    model = load_bert_family(spec, config, dtype=dtype, device="cpu", threads=1)
    assert model is not None
    assert model.dtype == dtype
    sequences = random_sequences(LENGTHS, spec.vocab_size)
    got, exact = model.embed(packed(sequences)), one_by_one(spec, sequences)
    assert 0 < np.abs(got - exact).max() < {"bfloat16": 0.1, "float16": 0.01}[dtype]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", ["bert", "mpnet"])
@pytest.mark.parametrize(("dtype", "atol"), [("float32", 1e-4), ("bfloat16", 0.1)])
def test_the_fused_encoder_runs_on_cuda(family: str, dtype: str, atol: float, tmp_path: Path) -> None:
    spec = checkpoint(CASES[family], tmp_path)
    config = read_encoder_config(spec)
    assert config is not None
    model = load_bert_family(spec, config, dtype=dtype, device="cuda", threads=1)
    assert model is not None
    sequences = random_sequences(LENGTHS, spec.vocab_size)
    np.testing.assert_allclose(model.embed(packed(sequences)), one_by_one(spec, sequences), atol=atol, rtol=0)
