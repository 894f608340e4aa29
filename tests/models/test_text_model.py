from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

from checkpoints import TinyDense, tiny_checkpoint, tiny_spec
from embedway.models.architectures import load_model
from embedway.models.checkpoint import read_spec
from embedway.models.text_model import in_groups
from embedway.models.transformers_loading import quiet_transformers
from packed_batches import packed, random_sequences

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

TEXTS = [
    "cat",
    "The quick brown fox jumps over the lazy dog",
    "How do I reset my password?",
    "A padding-free server lays sequences end to end, so that a short query never waits for a long document.",
    "def add(a: int, b: int) -> int:\n    return a + b",
    "Der schnelle braune Fuchs springt über den faulen Hund.",
    "注意力机制只看自己的序列",
    "Is 3.14159 closer to 22/7 or to 355/113?",
    "word " * 300,
    "!",
    "The mitochondrion is the powerhouse of the cell, and this sentence is in every corpus.",
    "an embedding is a vector, and a vector is a list of numbers with a direction",
]


def vectors_of(family: str, folder: Path, texts: list[str], **layout: object) -> npt.NDArray[np.float32]:
    """Ours, for texts tokenised by the folder's own tokenizer."""
    spec = tiny_spec(tiny_checkpoint(family, folder, **layout))  # ty: ignore[invalid-argument-type]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = [tokenizer.encode(text).ids[: spec.max_length] for text in texts]
    return load_model(spec, dtype="float32", device="cpu").embed(packed(ids))


def reference(folder: Path, texts: list[str]) -> npt.NDArray[np.float32]:
    with quiet_transformers():
        model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    return model.encode(texts, convert_to_numpy=True, show_progress_bar=False)


@pytest.mark.parametrize(
    ("family", "pooling"),
    [
        ("bert", "mean"),
        ("bert", "cls"),
        ("roberta", "max"),
        ("mpnet", "mean_sqrt_len_tokens"),
        ("mistral", "lasttoken"),
        ("qwen3", "weightedmean"),
        ("bert", ("cls", "max", "mean")),
    ],
)
def test_the_whole_folder_gives_the_vectors_of_sentence_transformers(
    family: str, pooling: str | tuple[str, ...], tmp_path: Path
) -> None:
    texts = ["a cat sat on the mat", "what?", "this sentence is a search query with a few words"]
    dense = [TinyDense(24), TinyDense(16, bias=False, activation="torch.nn.modules.linear.Identity")]
    got = vectors_of(family, tmp_path, texts, pooling=pooling, dense=dense, normalize=False)
    np.testing.assert_allclose(got, reference(tmp_path, texts), atol=1e-5, rtol=0)


def test_cls_and_mean_pooling_differ(tmp_path: Path) -> None:
    by_mode = [vectors_of("bert", tmp_path / mode, ["a lazy dog"], pooling=mode) for mode in ("cls", "mean")]
    assert np.abs(by_mode[0] - by_mode[1]).max() > 0.1


def test_a_left_out_prompt_changes_the_mean_only(tmp_path: Path) -> None:
    spec = tiny_spec(tiny_checkpoint("bert", tmp_path, include_prompt=False))
    model = load_model(spec, dtype="float32", device="cpu")
    sequences = random_sequences([9, 6], spec.vocab_size)
    whole = model.embed(packed(sequences))
    without = model.embed(packed(sequences, pool_starts=[4, 0]))
    assert np.abs(whole[0] - without[0]).max() > 0.01
    np.testing.assert_allclose(whole[1], without[1], atol=1e-6)


@given(st.lists(st.tuples(st.integers(1, 9), st.sampled_from([None, "a", "b", "c"])), min_size=1, max_size=12))
def test_grouping_by_adapter_and_length_moves_each_sequence_whole(drawn: list[tuple[int, str | None]]) -> None:
    lengths, adapters = zip(*drawn, strict=True)
    sequences = [[100 * i + j for j in range(length)] for i, length in enumerate(lengths)]
    batch = packed(sequences, pool_starts=range(len(lengths)), adapters=adapters)
    ordered, order = in_groups(batch)
    assert sorted(order) == list(range(len(lengths)))
    indices = [-1] * len(lengths) if ordered.adapter_indices is None else ordered.adapter_indices.tolist()
    keys = list(zip(indices, np.diff(ordered.cu_seqlens).tolist(), strict=True))
    assert keys == sorted(keys)
    for place, came_from in enumerate(order):
        a, b = ordered.cu_seqlens[place : place + 2]
        assert ordered.token_ids[a:b].tolist() == sequences[came_from]
        assert ordered.pool_starts[place] == came_from
        assert (ordered.adapters[indices[place]] if indices[place] >= 0 else None) == adapters[came_from]


def test_the_real_minilm_gives_the_vectors_of_sentence_transformers(minilm: Path) -> None:
    spec = read_spec(minilm, name="sentence-transformers/all-MiniLM-L6-v2")
    tokenizer = Tokenizer.from_file(str(minilm / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    vectors = load_model(spec, dtype="float32", device="cpu").embed(packed([tokenizer.encode(t).ids for t in TEXTS]))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = (vectors * reference(minilm, TEXTS)).sum(axis=1)
    assert cosines.min() >= 0.999999
