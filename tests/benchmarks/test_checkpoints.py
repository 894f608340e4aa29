from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.checkpoints import SHAPES, Shape, write_random_bert
from benchmarks.packing import batches_of

from embedway.models.architectures import load_model
from embedway.models.checkpoint import read_spec


def test_minilm_costs_what_its_layers_do() -> None:
    assert SHAPES["minilm"].flops_per_token(0) == pytest.approx(21.2e6, rel=0.01)
    assert SHAPES["minilm"].flops_per_token(100) - SHAPES["minilm"].flops_per_token(0) == 4 * 100 * 384 * 6


def test_a_shape_s_gemms_hold_all_its_weights() -> None:
    for shape in SHAPES.values():
        assert shape.num_layers * sum(inner * out for inner, out in shape.gemms) == shape.linear_weights


def test_a_random_checkpoint_is_one_that_the_engine_loads(tmp_path: Path) -> None:
    write_random_bert(Shape(hidden_size=64, num_layers=2, num_heads=2, intermediate_size=128), tmp_path / "tiny")
    spec = read_spec(tmp_path / "tiny", name="tiny")
    assert (spec.pooling, spec.max_length) == (("cls",), 512)
    model = load_model(spec, dtype="float32", device="cpu")
    assert model.embed(batches_of([[101, 2023, 102]], 8)[0]).shape == (1, 64)
