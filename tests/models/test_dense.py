from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers.base.modules import Dense as TheirDense

from checkpoints import TinyDense, tiny_checkpoint, tiny_spec
from embedway.errors import UnsupportedCheckpoint
from embedway.models import dense, torch_dense
from embedway.models.dense import load_dense
from embedway.models.torch_dense import TorchDense

if TYPE_CHECKING:
    from pathlib import Path

    from embedway.model_spec import DenseSpec


def dense_folder(folder: Path, module: TinyDense) -> tuple[str, DenseSpec]:
    spec = tiny_spec(tiny_checkpoint("bert", folder, dense=[module]))
    return spec.folder, spec.dense[0]


@pytest.mark.parametrize("activation", dense.ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_a_dense_module_computes_what_sentence_transformers_computes(
    tmp_path: Path, activation: str, bias: bool
) -> None:
    module = "linear" if activation == "Identity" else "activation"
    made = TinyDense(48, bias=bias, activation=f"torch.nn.modules.{module}.{activation}")
    folder, spec = dense_folder(tmp_path, made)
    vectors = 3 * torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    theirs = TheirDense.load(folder, subfolder=spec.folder)
    ours = load_dense(folder, spec)
    with torch.inference_mode():
        expected = theirs({"sentence_embedding": vectors})["sentence_embedding"]
        in_torch = TorchDense.of(ours, torch.device("cpu"))(vectors)
    # Each library sums a row's 32 products, some 10 in absolute value, in its own order: float32 keeps 24 bits of them.
    tolerance = 10 * 4 * 2**-24
    torch.testing.assert_close(in_torch, expected, atol=tolerance, rtol=0)
    np.testing.assert_allclose(ours(vectors.numpy()), expected.numpy(), atol=tolerance, rtol=0)


def test_torch_has_every_activation_that_numpy_has() -> None:
    assert torch_dense.ACTIVATIONS.keys() == dense.ACTIVATIONS.keys()


@pytest.mark.parametrize("activation", ["os.system", "my_package.Tanh", "torch.nn.modules.activation.Softshrink"])
def test_an_unknown_activation_is_refused_by_name(tmp_path: Path, activation: str) -> None:
    folder, spec = dense_folder(tmp_path, TinyDense(8))
    with pytest.raises(UnsupportedCheckpoint, match=activation):
        load_dense(folder, msgspec.structs.replace(spec, activation=activation))


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    folder, spec = dense_folder(tmp_path, TinyDense(8))
    with pytest.raises(UnsupportedCheckpoint, match=r"\(8, 32\).*\(9, 32\)"):
        load_dense(folder, msgspec.structs.replace(spec, out_features=9))


def test_a_missing_weight_file_is_refused(tmp_path: Path) -> None:
    folder, spec = dense_folder(tmp_path, TinyDense(8))
    (tmp_path / spec.folder / "model.safetensors").unlink()
    with pytest.raises(UnsupportedCheckpoint, match="2_Dense"):
        load_dense(folder, spec)


def test_dense_weights_are_float32_whatever_the_file_holds(tmp_path: Path) -> None:
    folder, spec = dense_folder(tmp_path, TinyDense(8))
    path = tmp_path / spec.folder / "model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(path).items()}, path)
    loaded = load_dense(folder, spec)
    assert loaded(np.zeros((1, 32), np.float32)).dtype == np.float32
