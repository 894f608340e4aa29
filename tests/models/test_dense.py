from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers.base.modules import Dense as TheirDense

from checkpoints import TinyDense, tiny_checkpoint, tiny_spec
from embedway.errors import UnsupportedCheckpoint
from embedway.models.dense import load_dense

if TYPE_CHECKING:
    from pathlib import Path

    from embedway.model_spec import DenseSpec

CPU = torch.device("cpu")


def dense_folder(folder: Path, module: TinyDense) -> tuple[str, DenseSpec]:
    spec = tiny_spec(tiny_checkpoint("bert", folder, dense=[module]))
    return spec.folder, spec.dense[0]


@pytest.mark.parametrize(
    "module",
    [
        TinyDense(8),
        TinyDense(8, bias=False, activation="torch.nn.modules.linear.Identity"),
        TinyDense(48, activation="torch.nn.modules.activation.GELU"),
        TinyDense(48, activation="torch.nn.modules.activation.SiLU"),
    ],
)
def test_a_dense_module_computes_what_sentence_transformers_computes(tmp_path: Path, module: TinyDense) -> None:
    folder, spec = dense_folder(tmp_path, module)
    vectors = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    theirs = TheirDense.load(folder, subfolder=spec.folder)
    with torch.inference_mode():
        expected = theirs({"sentence_embedding": vectors})["sentence_embedding"]
        torch.testing.assert_close(load_dense(folder, spec, CPU)(vectors), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("activation", ["os.system", "my_package.Tanh", "torch.nn.modules.activation.Softshrink"])
def test_an_unknown_activation_is_refused_by_name(tmp_path: Path, activation: str) -> None:
    folder, spec = dense_folder(tmp_path, TinyDense(8))
    with pytest.raises(UnsupportedCheckpoint, match=activation):
        load_dense(folder, msgspec.structs.replace(spec, activation=activation), CPU)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    folder, spec = dense_folder(tmp_path, TinyDense(8))
    with pytest.raises(UnsupportedCheckpoint, match=r"\(8, 32\).*\(9, 32\)"):
        load_dense(folder, msgspec.structs.replace(spec, out_features=9), CPU)


def test_a_missing_weight_file_is_refused(tmp_path: Path) -> None:
    folder, spec = dense_folder(tmp_path, TinyDense(8))
    (tmp_path / spec.folder / "model.safetensors").unlink()
    with pytest.raises(UnsupportedCheckpoint, match="2_Dense"):
        load_dense(folder, spec, CPU)


def test_dense_weights_are_float32_whatever_the_file_holds(tmp_path: Path) -> None:
    folder, spec = dense_folder(tmp_path, TinyDense(8))
    path = tmp_path / spec.folder / "model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(path).items()}, path)
    loaded = load_dense(folder, spec, CPU)
    assert loaded(torch.zeros(1, 32)).dtype == torch.float32
