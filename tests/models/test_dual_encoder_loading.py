from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dual_checkpoints import dual_checkpoint, packed_items
from embedway.errors import UnsupportedCheckpoint
from embedway.models import dual_encoder_loading, tower
from embedway.models.architectures import load_model
from embedway.models.attention import varlen_attention
from embedway.models.checkpoint import read_spec
from embedway.models.dual_encoder import DualEncoder
from embedway.visual import Visual

if TYPE_CHECKING:
    from pathlib import Path

    from embedway.kernels.native import GemmType
    from embedway.model_spec import ModelSpec

GREY = Visual("image", np.full((1, 32, 32, 3), 90, np.uint8), 17)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return read_spec(dual_checkpoint("clip", tmp_path_factory.mktemp("dual") / "model"), name="tiny")


def test_a_dual_encoder_is_loaded_by_its_type(spec: ModelSpec) -> None:
    model = load_model(spec, dtype="float32", device="cpu")
    assert isinstance(model, DualEncoder)
    assert (model.dtype, model.device, model.dimension) == ("float32", "cpu", 40)
    assert model.facts["backend"].startswith("torch, packed towers")


@pytest.mark.parametrize(("gain", "chosen"), [(2.0, "bfloat16"), (1.01, "float32")])
def test_auto_takes_a_16_bit_type_only_where_it_pays(
    gain: float, chosen: str, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    gains: dict[GemmType, float] = {"float32": 1.0, "bfloat16": gain}
    monkeypatch.setattr(dual_encoder_loading, "measure_gains", lambda models, samples: gains)
    monkeypatch.setattr(dual_encoder_loading, "can_pack", lambda dtype: dtype == torch.bfloat16)
    monkeypatch.setattr(dual_encoder_loading, "pays_to_pack", lambda hidden_size, dtype: False)
    monkeypatch.setattr(dual_encoder_loading, "WORST_COSINE", 0.999)
    model = load_model(spec, dtype="auto", device="cpu")
    assert model.dtype == chosen
    assert f"bfloat16 {gain:.2g}x of float32's speed" in model.facts["dtype_choice"]


def test_auto_refuses_a_16_bit_type_that_is_too_far_off(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    gains: dict[GemmType, float] = {"float32": 1.0, "bfloat16": 3.0}
    monkeypatch.setattr(dual_encoder_loading, "measure_gains", lambda models, samples: gains)
    monkeypatch.setattr(dual_encoder_loading, "can_pack", lambda dtype: dtype == torch.bfloat16)
    monkeypatch.setattr(dual_encoder_loading, "pays_to_pack", lambda hidden_size, dtype: False)
    monkeypatch.setattr(dual_encoder_loading, "WORST_COSINE", 0.99999999)
    assert load_model(spec, dtype="auto", device="cpu").dtype == "float32"


def test_the_types_are_measured_on_both_towers(spec: ModelSpec) -> None:
    maker = dual_encoder_loading.Maker.of(spec, torch.device("cpu"), 1)
    gains = dual_encoder_loading.gains_here(maker, spec)
    assert gains["float32"] == 1.0
    few = maker.shortened().make("float32")
    assert [len(part.tower.layers) for part in (few.text_tower, few.image_tower)] == [2, 2]


def test_a_machine_that_computes_wrongly_runs_plain_torch(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    right = load_model(spec, dtype="float32", device="cpu").embed(packed_items([((), (GREY,)), ([5, 6, 7], ())]))

    def broken(*args: torch.Tensor, causal: bool) -> torch.Tensor:
        return varlen_attention(*args, causal=not causal)  # ty: ignore[invalid-argument-type]

    monkeypatch.setattr(tower, "varlen_attention", broken)
    with caplog.at_level(logging.ERROR, "embedway.models"):
        model = load_model(spec, dtype="float32", device="cpu")
    assert model.facts["backend"] == "torch, plain towers"
    assert "give wrong vectors on this machine" in caplog.text
    np.testing.assert_allclose(model.embed(packed_items([((), (GREY,)), ([5, 6, 7], ())])), right, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "tensor", "problem"),
    [
        ("visual_projection.weight", None, "it lacks the weight visual_projection.weight"),
        ("text_model.final_layer_norm.bias", torch.zeros(3), "it has a wrong shape for the weight text_model.final"),
    ],
)
def test_weights_that_are_not_as_declared_are_refused(
    name: str, tensor: torch.Tensor | None, problem: str, tmp_path: Path
) -> None:
    folder = dual_checkpoint("clip", tmp_path)
    weights = {**load_file(folder / "model.safetensors"), name: tensor}
    save_file({key: value for key, value in weights.items() if value is not None}, folder / "model.safetensors")
    with pytest.raises(UnsupportedCheckpoint, match=problem):
        load_model(read_spec(folder, name="tiny"), dtype="float32", device="cpu")
