from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from benchmarks.decoders import SHAPES, contestants, mixed, uniform

if TYPE_CHECKING:
    from pathlib import Path


def test_packed_and_padded_decoders_give_the_same_vectors(tmp_path: Path) -> None:
    model_type, shape = SHAPES["Qwen3-Embedding"]
    small = {**shape, "num_hidden_layers": 1, "intermediate_size": 64}
    sequences = mixed(20, 2, 40)
    first, *others = (runner.embed(sequences) for runner in contestants(model_type, small, tmp_path, threads=1))
    for vectors in others:
        np.testing.assert_allclose(vectors, first, atol=1e-4)


def test_uniform_texts_have_the_tokens_of_the_mixed_ones() -> None:
    various = mixed(50, 12, 512)
    alike = uniform(various)
    assert len(set(map(len, alike))) == 1
    assert 0 <= sum(map(len, various)) - sum(map(len, alike)) < len(various)
    assert min(map(len, various)) < 20 < 400 < max(map(len, various))
