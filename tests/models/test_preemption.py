"""Other batches may run in the midst of one: both get the vectors that they get alone."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest
from peft import LoraConfig

from checkpoints import tiny_checkpoint, tiny_spec
from embedway.models.adapter_checkpoint import read_adapter
from embedway.models.packed_transformer import OneByOneTransformer, PackedTransformer
from embedway.models.text_model import TextModel
from midst import Midst
from model_loaders import in_library, in_torch, needs_library, with_transformers
from packed_batches import packed, random_sequences
from peft_folders import peft_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import TypeAlias

    from embedway.model_spec import ModelSpec
    from embedway.models.interface import EmbeddingModel

    Load: TypeAlias = Callable[[ModelSpec], EmbeddingModel | None]


of_every_kind = pytest.mark.parametrize(
    ("load", "family"),
    [
        pytest.param(partial(in_library, threads=2), "bert", marks=needs_library),
        (in_torch, "bert"),
        (in_torch, "mpnet"),
        (with_transformers, "modernbert"),
        (with_transformers, "qwen3"),
        (with_transformers, "deberta-v2"),
    ],
)


@of_every_kind
def test_batches_are_the_same_where_one_runs_in_the_midst_of_the_other(load: Load, family: str, tmp_path: Path) -> None:
    spec = tiny_spec(tiny_checkpoint(family, tmp_path))
    model = load(spec)
    assert model is not None
    batch, other = (packed(random_sequences(lengths, 60, seed=len(lengths))) for lengths in ([30, 5, 41], [7, 50]))
    alone, alone_other = model.embed(batch), model.embed(other)
    midst = Midst(model, other)
    np.testing.assert_allclose(midst.embed(batch), alone, rtol=1e-6)
    assert len(midst.vectors) >= 2
    for vectors in midst.vectors:
        np.testing.assert_allclose(vectors, alone_other, rtol=1e-6)


@of_every_kind
def test_an_adapter_changes_its_own_batch_only(load: Load, family: str, tmp_path: Path) -> None:
    folder = tiny_checkpoint(family, tmp_path / "model")
    model = load(tiny_spec(folder))
    assert model is not None
    written = peft_folder(folder, tmp_path / "adapter", LoraConfig(r=4, target_modules="all-linear"))
    adapter = model.make_adapter(read_adapter(written, name="a", max_rank=None))
    sequences, others = (random_sequences(lengths, 60, seed=len(lengths)) for lengths in ([30, 5, 41], [7, 50]))
    plain, changed = packed(sequences), packed(sequences, adapters=[adapter, None, adapter])
    plain_other, changed_other = packed(others), packed(others, adapters=[None, adapter])
    for batch, other in ((plain, changed_other), (changed, plain_other), (changed, changed_other)):
        alone, alone_other = model.embed(batch), model.embed(other)
        midst = Midst(model, other)
        np.testing.assert_allclose(midst.embed(batch), alone, rtol=1e-6)
        for vectors in midst.vectors:
            np.testing.assert_allclose(vectors, alone_other, rtol=1e-6)


def test_the_kinds_of_encoders_are_all_here(tmp_path: Path) -> None:
    kinds = []
    for family in ("modernbert", "qwen3", "deberta-v2"):
        model = with_transformers(tiny_spec(tiny_checkpoint(family, tmp_path / family)))
        assert isinstance(model, TextModel)
        kinds.append(type(model.encoder))
    assert kinds == [PackedTransformer, PackedTransformer, OneByOneTransformer]
