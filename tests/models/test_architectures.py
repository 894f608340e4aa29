from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import without_torch
from checkpoints import tiny_checkpoint, tiny_spec
from embedway.errors import InvalidSetting, UnsupportedCheckpoint
from embedway.kernels import native
from embedway.models.architectures import load_model
from embedway.models.bert_family import FusedBert
from embedway.models.native_model import NativeModel
from embedway.models.reference_encoder import ReferenceEncoder
from embedway.models.text_model import TextModel
from embedway.models.weight_dtype import declared_dtype
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
    assert model.dtype == dtype
    vectors = model.embed(packed(random_sequences([5, 3], spec.vocab_size)))
    assert vectors.dtype == "float32"
    exact = load_model(spec, dtype="float32", device="cpu").embed(packed(random_sequences([5, 3], spec.vocab_size)))
    assert abs(vectors - exact).max() < {"float32": 1e-6, "bfloat16": 0.1, "float16": 0.01}[dtype]


@pytest.mark.usefixtures("native_stand_in")
def test_a_bert_on_a_cpu_runs_in_the_native_library(spec: ModelSpec) -> None:
    model = load_model(spec, dtype="auto", device="cpu", threads=2)
    assert isinstance(model, NativeModel)
    assert model.facts["backend"] == "native (numpy)"
    assert vars(type(model.encoder))["threads_asked"] == 2


@pytest.mark.usefixtures("native_stand_in")
def test_a_type_that_the_library_lacks_runs_in_torch(spec: ModelSpec) -> None:
    model = load_model(spec, dtype="bfloat16", device="cpu")
    assert isinstance(model, TextModel)
    assert isinstance(model.encoder, FusedBert)
    assert model.dtype == "bfloat16"


@pytest.mark.usefixtures("no_library")
def test_without_the_library_a_bert_runs_in_torch_and_says_so_once(
    spec: ModelSpec, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="embedway.models"):
        model = load_model(spec, dtype="auto", device="cpu")
    assert isinstance(model, TextModel)
    assert isinstance(model.encoder, FusedBert)
    assert caplog.text.count("without its native library") == len(caplog.records) == 1


@pytest.mark.usefixtures("no_library")
def test_a_model_that_would_not_run_in_the_library_anyway_says_nothing_of_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = tiny_spec(tiny_checkpoint("qwen3", tmp_path, pooling="lasttoken"))
    load_model(spec, dtype="auto", device="cpu")
    assert caplog.text == ""


@pytest.mark.usefixtures("native_stand_in")
def test_a_library_that_gives_wrong_vectors_is_not_used(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def reversed_tokens(self: ReferenceEncoder, ids: np.ndarray, *rest: Any, **adapters: Any) -> np.ndarray:
        return ReferenceEncoder.embed(self, ids[::-1], *rest, **adapters)

    monkeypatch.setattr(native.NativeEncoder, "embed", reversed_tokens)
    model = load_model(spec, dtype="auto", device="cpu")
    assert isinstance(model, TextModel)
    assert "wrong vectors on this machine" in caplog.text


@pytest.mark.usefixtures("native_stand_in")
def test_a_shape_that_the_library_does_not_compute_runs_in_torch(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("heads of 8 are too small")

    monkeypatch.setattr(native, "NativeEncoder", refuse)
    assert isinstance(load_model(spec, dtype="auto", device="cpu"), TextModel)
    assert "heads of 8 are too small" in caplog.text


WITHOUT_TORCH = """
import sys
from pathlib import Path
from embedway.embedder import Embedder
from embedway.errors import StartupError
from embedway.kernels import native
from embedway.models.reference_encoder import ReferenceEncoder

class StandIn(ReferenceEncoder):
    instruction_set = "numpy"

    def __init__(self, shape, weights, *, gemm_type, threads):
        super().__init__(shape, weights)

folder, device, has_library = sys.argv[1:]
native.gemm_types = lambda: ("float32",) if has_library == "library" else ()
native.NativeEncoder = StandIn
try:
    print(Embedder(Path(folder), device=device).embed([5, 6, 7]).tolist())
except StartupError as error:
    print(error.message)
print({"torch", "transformers"} & set(sys.modules))
"""


def test_a_bert_needs_neither_torch_nor_transformers(spec: ModelSpec) -> None:
    ended = without_torch.run_python(WITHOUT_TORCH, spec.folder, "auto", "library")
    vector, loaded = ended.stdout.splitlines()
    expected = load_model(spec, dtype="float32", device="cpu").embed(packed([[5, 6, 7]]))[0]
    assert np.allclose(json.loads(vector), expected / np.linalg.norm(expected), atol=1e-6)
    assert loaded == "set()"


@pytest.mark.parametrize(
    ("family", "device", "library"), [("qwen3", "cpu", "library"), ("bert", "cpu", "none"), ("bert", "cuda", "library")]
)
def test_what_needs_torch_says_what_to_install(tmp_path: Path, family: str, device: str, library: str) -> None:
    folder = tiny_checkpoint(family, tmp_path / "model")
    ended = without_torch.run_python(WITHOUT_TORCH, str(folder), device, library)
    assert ended.stdout.splitlines() == [
        f"{folder} ({family}, device {device}) needs torch, which is not installed: pip install 'embedway[torch]'",
        "set()",
    ]


def test_a_tokenizer_to_convert_says_what_to_install(spec: ModelSpec, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").rename(tmp_path / "vocab.txt")
    ended = without_torch.run_python(WITHOUT_TORCH, spec.folder, "cpu", "library")
    assert "needs transformers, which is not installed: pip install 'embedway[torch]'" in ended.stdout


def test_auto_is_float32_on_a_cpu_for_what_transformers_runs(tmp_path: Path) -> None:
    spec = tiny_spec(tiny_checkpoint("qwen3", tmp_path, pooling="lasttoken"))
    assert load_model(spec, dtype="auto", device="cpu").dtype == "float32"


@pytest.mark.parametrize(
    ("saved", "runs"),
    [(torch.float32, "bfloat16"), (torch.float16, "float16"), (torch.bfloat16, "bfloat16")],
)
def test_auto_on_cuda_is_the_checkpoints_own_16_bit_type(tmp_path: Path, saved: torch.dtype, runs: str) -> None:
    spec = tiny_spec(tiny_checkpoint("bert", tmp_path, dtype=saved))
    assert declared_dtype(spec) == runs


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
