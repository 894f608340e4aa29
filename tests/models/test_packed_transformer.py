from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import pytest
import torch
import transformers

from checkpoints import tiny_checkpoint, tiny_spec
from embedway.models import cpu_linear
from embedway.models.attention import packed_layout
from embedway.models.packed_transformer import OneByOneTransformer, PackedTransformer
from embedway.models.text_model import TextModel
from embedway.models.transformers_loading import load_with_transformers, quiet_transformers
from packed_batches import packed, random_sequences

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from embedway.model_spec import ModelSpec

LENGTHS = [3, 17, 1, 40, 12, 17, 64]


class Case(NamedTuple):
    family: str
    pooling: str = "mean"
    config: Mapping[str, Any] = {}
    causal_lm: bool = False
    encoder: type = PackedTransformer


CASES = {
    "bert": Case("bert"),
    "roberta": Case("roberta"),
    "xlm-roberta": Case("xlm-roberta", "cls"),
    "distilbert": Case("distilbert", "cls"),
    "modernbert": Case("modernbert"),
    "nomic_bert": Case("nomic_bert"),
    "mistral": Case("mistral", "lasttoken", causal_lm=True),
    "mistral with a window": Case("mistral", "lasttoken", {"sliding_window": 8}),
    "qwen2": Case("qwen2", "lasttoken"),
    "qwen2 bidirectional": Case("qwen2", "mean", {"is_causal": False}),
    "qwen3": Case("qwen3", "lasttoken", causal_lm=True),
    "gemma3": Case("gemma3", "lasttoken"),
    "gemma3 bidirectional": Case("gemma3", "mean", {"use_bidirectional_attention": True}),
    "llama": Case("llama", "lasttoken"),
    "deberta-v2, which has its own attention": Case("deberta-v2", encoder=OneByOneTransformer),
    "mpnet, which adds a bias": Case("mpnet", encoder=OneByOneTransformer),
    "t5, which adds a bias": Case("t5", encoder=OneByOneTransformer),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def checkpoint(case: Case, folder: Path) -> ModelSpec:
    tiny_checkpoint(case.family, folder, pooling=case.pooling, config=case.config, causal_lm=case.causal_lm)
    return tiny_spec(folder)


def loaded(spec: ModelSpec) -> TextModel:
    return load_with_transformers(spec, dtype="float32", device="cpu", threads=1)


def transformer_of(model: TextModel) -> torch.nn.Module:
    assert isinstance(model.encoder, PackedTransformer)
    return model.encoder.model


@torch.inference_mode()
def one_by_one(spec: ModelSpec, sequences: list[list[int]]) -> np.ndarray:
    """transformers' eager attention, each sequence in a forward of its own, pooled by hand."""
    build = transformers.T5EncoderModel if spec.model_type == "t5" else transformers.AutoModel
    with quiet_transformers():
        model = build.from_pretrained(spec.folder, attn_implementation="eager").eval()
    vectors = []
    for sequence in sequences:
        states = model(input_ids=torch.tensor([sequence]))[0][0]
        vectors.append({"mean": states.mean(0), "cls": states[0], "lasttoken": states[-1]}[spec.pooling[0]].numpy())
    return np.stack(vectors)


@every_case
def test_packed_vectors_equal_transformers_one_by_one(case: Case, tmp_path: Path) -> None:
    spec = checkpoint(case, tmp_path)
    sequences = random_sequences(LENGTHS, spec.vocab_size)
    model = loaded(spec)
    assert type(model.encoder) is case.encoder
    np.testing.assert_allclose(model.embed(packed(sequences)), one_by_one(spec, sequences), atol=1e-5, rtol=0)


@every_case
def test_a_vector_does_not_depend_on_its_neighbours(case: Case, tmp_path: Path) -> None:
    spec = checkpoint(case, tmp_path)
    sequences = random_sequences(LENGTHS, spec.vocab_size)
    model = loaded(spec)
    together = model.embed(packed(sequences))
    unit = np.abs(together).max()  # 1e-6 of the largest value: float32's own rounding is 1.2e-7 of it
    for sequence, vector in zip(sequences, together, strict=True):
        np.testing.assert_allclose(model.embed(packed([sequence]))[0], vector, atol=1e-6 * unit, rtol=0)


@pytest.mark.parametrize("family", ["bert", "qwen3"])
def test_packed_linears_change_no_vector(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not cpu_linear.can_pack(torch.float32):
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(cpu_linear, "packing_gain", lambda weight, bias: 2.0)
    spec = checkpoint(CASES[family], tmp_path)
    sequences = random_sequences(LENGTHS, spec.vocab_size)
    model = loaded(spec)
    assert any(isinstance(m, cpu_linear.PackedLinear) for m in transformer_of(model).modules())
    np.testing.assert_allclose(model.embed(packed(sequences)), one_by_one(spec, sequences), atol=1e-5, rtol=0)


def test_the_declared_direction_changes_the_vectors(tmp_path: Path) -> None:
    causal = checkpoint(CASES["qwen2"], tmp_path / "causal")
    both_ways = checkpoint(CASES["qwen2 bidirectional"], tmp_path / "both")
    token_ids = torch.tensor(random_sequences([9], causal.vocab_size)[0])
    layout = packed_layout(np.array([0, 9], np.int32), torch.device("cpu"))
    with torch.inference_mode():
        first_tokens = [loaded(spec).encoder.hidden_states(token_ids, layout)[0] for spec in (causal, both_ways)]
    assert (first_tokens[0] - first_tokens[1]).abs().max() > 0.01


def test_no_square_mask_of_the_whole_batch_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = checkpoint(CASES["mistral with a window"], tmp_path)
    model = loaded(spec)
    for name in ("sdpa_mask", "eager_mask"):
        monkeypatch.setattr(transformers.masking_utils, name, lambda *args, **kwargs: pytest.fail("a mask was built"))
    masks: list[object] = []
    for layer in cast("Any", transformer_of(model)).layers:
        layer.register_forward_pre_hook(lambda _, args, kw: masks.append(kw.get("attention_mask")), with_kwargs=True)
    model.embed(packed(random_sequences([30, 20], spec.vocab_size)))
    assert masks == [None, None]
