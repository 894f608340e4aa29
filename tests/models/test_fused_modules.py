"""The replaced modules against transformers' own: with the kernels' formulas in torch here, with Triton's on a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModel, PreTrainedModel

from checkpoints import tiny_checkpoint, tiny_spec
from embedway.models import fused_modules
from embedway.models.fused_modules import fuse
from embedway.models.packed_transformer import PackedTransformer
from embedway.models.transformers_loading import load_with_transformers, quiet_transformers
from packed_batches import packed, random_sequences

if TYPE_CHECKING:
    from pathlib import Path

LENGTHS = [3, 17, 1, 40, 12]
NUM_FUSED = {"llama": 9, "mistral": 9, "qwen2": 9, "qwen3": 13, "gemma3": 15, "modernbert": 2}
"""Of two layers' norms, rotary positions and gated layers, and a norm behind the last. Gemma's gate is a GELU."""


class InTorch:
    """What `triton_kernels` computes"""

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        return functional.rms_norm(x, (x.shape[-1],), weight, eps)

    def rotate(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        half = x.shape[-1] // 2
        a, b = x.split(half, dim=-1)
        return torch.cat((a * cos[..., :half] - b * sin[..., :half], b * cos[..., half:] + a * sin[..., half:]), dim=-1)

    def silu_times(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return functional.silu(gate) * up


def model_in(folder: Path, family: str) -> PreTrainedModel:
    tiny_checkpoint(family, folder)
    with quiet_transformers():
        model = AutoModel.from_pretrained(folder).eval()
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if "norm" in name:  # they are all 1, or Gemma's 0
            nn.init.normal_(weight, generator=generator)
    return model


@torch.inference_mode()
def states(model: nn.Module, *ids: list[int]) -> torch.Tensor:
    return model(input_ids=torch.tensor(ids))[0]


@pytest.mark.parametrize("family", NUM_FUSED)
def test_a_fused_model_gives_the_same(family: str, tmp_path: Path) -> None:
    model = model_in(tmp_path, family)
    one, more = [5, 6, 7, 8, 9], ([5, 6, 7], [9, 8, 7])
    expected, expected_together = states(model, one), states(model, *more)
    assert fuse(model, InTorch()) == NUM_FUSED[family]
    torch.testing.assert_close(states(model, one), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(states(model, *more), expected_together, atol=1e-5, rtol=1e-4)  # no packed row


class Otherwise(InTorch):
    """Formulas that no model has"""

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        return 1.02 * super().rms_norm(x, weight, eps)

    def rotate(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        return super().rotate(x, cos, -sin)

    def silu_times(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return functional.relu(gate) * up


@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
def test_what_differs_is_left_alone(family: str, tmp_path: Path) -> None:
    model = model_in(tmp_path, family)
    expected = states(model, [5, 6, 7])
    assert fuse(model, Otherwise()) == 0
    assert torch.equal(states(model, [5, 6, 7]), expected)


def test_other_models_of_the_class_stay_as_they_are(tmp_path: Path) -> None:
    model, other = model_in(tmp_path / "a", "qwen3"), model_in(tmp_path / "b", "qwen3")
    fuse(model, InTorch())
    for module in other.modules():
        assert "forward" not in vars(module)


def test_a_model_on_a_cpu_is_not_changed(tmp_path: Path) -> None:
    tiny_checkpoint("qwen3", tmp_path)
    model = load_with_transformers(tiny_spec(tmp_path), dtype="bfloat16", device="cpu", threads=1)
    assert isinstance(model.encoder, PackedTransformer)
    assert not any("forward" in vars(module) for module in model.encoder.model.modules())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", NUM_FUSED)
def test_fused_modules_on_cuda(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    monkeypatch.setattr(fused_modules, "fuse", lambda *args: counts.append(fuse(*args)) or counts[-1])
    tiny_checkpoint(family, tmp_path)
    spec = tiny_spec(tmp_path)
    exact = load_with_transformers(spec, dtype="float32", device="cpu", threads=1)
    assert not counts
    model = load_with_transformers(spec, dtype="bfloat16", device="cuda", threads=1)
    assert counts == [NUM_FUSED[family]]
    batch = packed(random_sequences(LENGTHS, spec.vocab_size))
    got, expected = model.embed(batch), exact.embed(batch)
    cosines = (got * expected).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() >= 0.999
