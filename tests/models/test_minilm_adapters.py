"""Adapters on the real all-MiniLM-L6-v2, native and in torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from peft import LoraConfig
from tokenizers import Tokenizer

from adapter_training import UNSEEN, separation, train_topic_adapter
from embedway.kernels import native
from embedway.models.adapter_checkpoint import read_adapter
from embedway.models.bert_config import read_encoder_config
from embedway.models.bert_family import load_bert_family
from embedway.models.checkpoint import read_spec
from embedway.models.native_loading import load_native
from packed_batches import packed
from peft_folders import cosines, peft_folder, peft_vectors
from texts import varied_texts

if TYPE_CHECKING:
    from pathlib import Path

    from embedway.model_spec import ModelSpec
    from embedway.models.interface import EmbeddingModel

KINDS = {
    "one target, rank 1": LoraConfig(r=1, target_modules=["query"]),
    "the usual": LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"]),
    "attention": LoraConfig(r=4, target_modules=["query", "key", "value", "attention.output.dense"]),
    "feed-forward": LoraConfig(r=16, lora_alpha=4, target_modules=["intermediate.dense", "layer.*.output.dense"]),
    "everything": LoraConfig(r=64, lora_alpha=64, target_modules="all-linear"),
    "rank-stabilised": LoraConfig(r=32, lora_alpha=6, use_rslora=True, target_modules="all-linear"),
    "patterns": LoraConfig(
        r=2,
        rank_pattern={r"layer\.[0-2]\..*": 12},
        alpha_pattern={r".*value": 3},
        target_modules=["query", "value", "intermediate.dense"],
    ),
    "some layers": LoraConfig(r=7, target_modules=["key", "output.dense"], layers_to_transform=[1, 4]),
}
PATHS = ["native", "torch"]


@pytest.fixture(scope="module")
def spec(minilm: Path) -> ModelSpec:
    return read_spec(minilm, name="sentence-transformers/all-MiniLM-L6-v2")


def loaded(spec: ModelSpec, path: str) -> EmbeddingModel:
    if path == "native" and not native.gemm_types():
        pytest.skip("the native library is not built")
    config = read_encoder_config(spec)
    assert config is not None
    model = (
        load_native(spec, config, dtype="float32", threads=1)
        if path == "native"
        else load_bert_family(spec, config, dtype="float32", device="cpu", threads=1)
    )
    assert model is not None
    return model


def token_ids(folder: Path, texts: list[str], longest: int = 256) -> list[list[int]]:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(longest)
    return [encoding.ids for encoding in tokenizer.encode_batch(texts)]


@pytest.fixture(scope="module")
def adapter_folders(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return [
        peft_folder(minilm, folder / str(i), config, seed=i, strength=0.5) for i, config in enumerate(KINDS.values())
    ]


@pytest.mark.parametrize("path", PATHS)
def test_eight_adapters_and_the_base_in_one_batch_give_peft_s_vectors(
    path: str, spec: ModelSpec, minilm: Path, adapter_folders: list[Path]
) -> None:
    model = loaded(spec, path)
    adapters = [
        *(model.make_adapter(read_adapter(folder, name=folder.name, max_rank=None)) for folder in adapter_folders),
        None,
    ]
    sequences = token_ids(minilm, varied_texts(4 * len(adapters)))
    choice = [(5 * i) % len(adapters) for i in range(len(sequences))]
    vectors = model.embed(packed(sequences, adapters=[adapters[i] for i in choice]))
    base = peft_vectors(spec, None, sequences)
    for i, folder in enumerate([*adapter_folders, None]):
        places = [place for place, chosen in enumerate(choice) if chosen == i]
        expected = peft_vectors(spec, folder, [sequences[place] for place in places])
        assert cosines(vectors[places], expected).min() >= 0.99999
        assert folder is None or cosines(expected, base[places]).max() < 0.999  # else there is nothing to confuse


@pytest.mark.parametrize("path", PATHS)
def test_a_trained_adapter_separates_topics_that_the_base_mixes_up(
    path: str, spec: ModelSpec, minilm: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = loaded(spec, path)
    folder = train_topic_adapter(minilm, tmp_path_factory.mktemp("trained"))
    adapter = model.make_adapter(read_adapter(folder, name="topics", max_rank=None))
    sequences = token_ids(minilm, UNSEEN.texts)
    base = separation(model.embed(packed(sequences)), UNSEEN.topics)
    adapted = separation(model.embed(packed(sequences, adapters=[adapter] * len(sequences))), UNSEEN.topics)
    assert base < 0.35
    assert adapted > 0.7
