from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from checkpoints import tiny_checkpoint, tiny_spec
from embedway.errors import InvalidSetting, UnsupportedCheckpoint
from embedway.models.architectures import load_model, resolve_dtype
from embedway.models.text_model import TextModel
from packed_batches import packed, random_sequences

if TYPE_CHECKING:
    from pathlib import Path

    from embedway.model_spec import ModelSpec


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    return tiny_spec(tiny_checkpoint("bert", tmp_path))


def edit_weights(folder: Path, remove: str = "", **replace: torch.Tensor) -> None:
    path = folder / "model.safetensors"
    weights = {name: tensor for name, tensor in load_file(path).items() if not remove or not name.startswith(remove)}
    save_file({**weights, **replace}, path, metadata={"format": "pt"})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_model_runs_in_the_type_that_was_asked_for(spec: ModelSpec, dtype: str) -> None:
    model = load_model(spec, dtype=dtype, device="cpu")
    assert isinstance(model, TextModel)
    assert model.dtype == dtype
    vectors = model.embed(packed(random_sequences([5, 3], spec.vocab_size)))
    assert vectors.dtype == "float32"
    exact = load_model(spec, dtype="float32", device="cpu").embed(packed(random_sequences([5, 3], spec.vocab_size)))
    assert abs(vectors - exact).max() < {"float32": 1e-6, "bfloat16": 0.1, "float16": 0.01}[dtype]


def test_auto_is_float32_on_a_cpu(spec: ModelSpec) -> None:
    assert load_model(spec, dtype="auto", device="cpu").dtype == "float32"


@pytest.mark.parametrize(
    ("saved", "runs"),
    [(torch.float32, torch.bfloat16), (torch.float16, torch.float16), (torch.bfloat16, torch.bfloat16)],
)
def test_auto_on_cuda_is_the_checkpoints_own_16_bit_type(tmp_path: Path, saved: torch.dtype, runs: torch.dtype) -> None:
    spec = tiny_spec(tiny_checkpoint("bert", tmp_path, dtype=saved))
    assert resolve_dtype("auto", spec, torch.device("cuda")) == runs


@pytest.mark.parametrize("device", ["tpu9", "meta", "cuda:99"])
def test_a_device_that_is_not_there_is_a_setting_error(spec: ModelSpec, device: str) -> None:
    with pytest.raises(InvalidSetting, match=device):
        load_model(spec, dtype="auto", device=device)


def test_an_unknown_dtype_is_a_setting_error(spec: ModelSpec) -> None:
    with pytest.raises(InvalidSetting, match="int3"):
        load_model(spec, dtype="int3", device="cpu")


def test_pickled_weights_are_refused(spec: ModelSpec, tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    torch.save(load_file(weights), tmp_path / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(UnsupportedCheckpoint, match=r"pytorch_model\.bin"):
        load_model(spec, dtype="auto", device="cpu")


def test_a_missing_weight_is_refused_not_made_up(spec: ModelSpec, tmp_path: Path) -> None:
    edit_weights(tmp_path, remove="encoder.layer.1.attention.self.query.weight")
    with pytest.raises(
        UnsupportedCheckpoint, match=r"lacks the weight encoder\.layer\.1\.attention\.self\.query\.weight"
    ):
        load_model(spec, dtype="auto", device="cpu")


def test_a_weight_of_a_wrong_shape_is_refused(spec: ModelSpec, tmp_path: Path) -> None:
    edit_weights(tmp_path, **{"encoder.layer.0.output.dense.bias": torch.zeros(7)})
    with pytest.raises(UnsupportedCheckpoint):
        load_model(spec, dtype="auto", device="cpu")


def test_a_missing_pooler_is_fine(spec: ModelSpec, tmp_path: Path) -> None:
    edit_weights(tmp_path, remove="pooler.")
    assert load_model(spec, dtype="auto", device="cpu").dimension == 32


def test_an_unknown_architecture_is_refused_in_one_line(spec: ModelSpec, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no_such_model"}')
    with pytest.raises(UnsupportedCheckpoint, match="no_such_model") as caught:
        load_model(msgspec.structs.replace(spec, model_type="no_such_model"), dtype="auto", device="cpu")
    assert "\n" not in caught.value.message


def test_loading_prints_nothing_and_leaves_transformers_logging_as_it_was(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = tiny_spec(tiny_checkpoint("mistral", tmp_path, pooling="lasttoken", causal_lm=True))
    before = transformers.logging.get_verbosity()
    capfd.readouterr()
    load_model(spec, dtype="auto", device="cpu")
    assert capfd.readouterr() == ("", "")
    assert transformers.logging.get_verbosity() == before
    assert transformers.logging.is_progress_bar_enabled()


def test_a_weight_of_the_wrong_shape_is_refused_by_name(tmp_path: Path) -> None:
    folder = tiny_checkpoint("bert", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": config["vocab_size"] - 5}))
    with pytest.raises(UnsupportedCheckpoint, match=r"wrong shape for the weight .*word_embeddings"):
        load_model(tiny_spec(folder), dtype="float32", device="cpu")
