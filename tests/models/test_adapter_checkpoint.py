from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch import nn

from embedway.errors import AdapterRefused
from embedway.models.adapter_checkpoint import read_adapter
from peft_folders import save_random_adapter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from embedway.models.adapter_checkpoint import AdapterWeights

QUERY = "encoder.layer.0.query"


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.value = nn.Linear(6, 4), nn.Linear(6, 4)


class Model(nn.Module):
    """Linear layers with names like BERT's."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(9, 6)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList([Block(), Block(), Block()])})
        self.pooler = nn.Linear(6, 6)


def adapter(folder: Path, **config: Any) -> Path:
    return save_random_adapter(Model(), folder, lora(**config))


def lora(**config: Any) -> LoraConfig:
    defaults: dict[str, Any] = {"target_modules": ["query", "value"], "r": 2}
    return LoraConfig(**(defaults | config))


def read(folder: Path, max_rank: int | None = None) -> AdapterWeights:
    return read_adapter(folder, name="mine", max_rank=max_rank)


def refusal(folder: Path, max_rank: int | None = None) -> str:
    with pytest.raises(AdapterRefused) as caught:
        read(folder, max_rank)
    message = caught.value.message
    assert message.startswith("The LoRA adapter 'mine' cannot be loaded: ")
    assert str(folder.parent) not in message  # it goes to clients
    return message


def edit_config(folder: Path, **fields: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    path = folder / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)


def key(module: str, factor: str) -> str:
    return f"base_model.model.{module}.lora_{factor}.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return adapter(tmp_path / "adapter")


PATTERNS = {
    "rank by a module's end": {"rank_pattern": {"query": 3}},
    "rank by a regular expression": {"rank_pattern": {r".*\.[12]\.value": 5}, "alpha_pattern": {r"layer\.0\.\w+": 32}},
    "the first pattern that matches": {"rank_pattern": {"layer.1.query": 1, "query": 7}, "lora_alpha": 3},
    "an anchored pattern": {"rank_pattern": {"^encoder.layer.2.value": 4}, "alpha_pattern": {"^encoder.*query": 50}},
    "rank-stabilised": {"use_rslora": True, "r": 4, "lora_alpha": 3, "alpha_pattern": {"value": 9}},
    "targets by a regular expression": {"target_modules": r"encoder\.layer\.[02]\.(query|value)"},
    "one layer": {"layers_to_transform": 1},
    "some layers by a pattern": {"layers_to_transform": [0, 2], "layers_pattern": "layer"},
    "without some": {"exclude_modules": ["layer.1.value", "query"]},
    "without some by a regular expression": {"exclude_modules": r".*\.0\..*"},
    "half an alpha": {"lora_alpha": 0.5},
}


@pytest.mark.parametrize("config", PATTERNS.values(), ids=PATTERNS)
def test_ranks_scales_and_targets_are_peft_s(config: dict[str, Any], tmp_path: Path) -> None:
    model = Model()
    folder = save_random_adapter(model, tmp_path, lora(**config))
    in_peft: dict[str, Any] = {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}
    ours = read(folder).modules
    assert in_peft
    assert ours.keys() == in_peft.keys()
    for name, layer in in_peft.items():
        delta = layer.get_delta_weight("default")
        np.testing.assert_allclose(ours[name].up @ ours[name].down, delta.detach().numpy(), atol=1e-6)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float16, 1e-3), (torch.bfloat16, 1e-2)])
def test_16_bit_files_are_read_as_float32(folder: Path, dtype: torch.dtype, atol: float) -> None:
    exact = read(folder).modules[QUERY]
    edit_weights(folder, lambda tensors: {name: tensor.to(dtype) for name, tensor in tensors.items()})
    rounded = read(folder).modules[QUERY]
    assert rounded.down.dtype == rounded.up.dtype == np.float32
    np.testing.assert_allclose(rounded.up @ rounded.down, exact.up @ exact.down, atol=10 * atol)
    assert not np.array_equal(rounded.down, exact.down)


def test_what_is_read_keeps_no_file(folder: Path) -> None:
    change = read(folder).modules[QUERY]
    before = change.up @ change.down
    (folder / "adapter_model.safetensors").write_bytes(b"")
    np.testing.assert_array_equal(change.up @ change.down, before)
    assert change.down.base is None


def test_the_hash_is_of_both_files_and_of_nothing_else(folder: Path, tmp_path: Path) -> None:
    first = read(folder).content_hash
    assert len(first) == 64
    (folder / "README.md").write_text("changed")
    assert read(folder.rename(tmp_path / "moved")).content_hash == first
    edit_config(tmp_path / "moved", lora_alpha=9)
    second = read(tmp_path / "moved").content_hash
    edit_weights(tmp_path / "moved", lambda tensors: {name: -tensor for name, tensor in tensors.items()})
    assert len({first, second, read(tmp_path / "moved").content_hash}) == 3


def test_the_largest_rank_counts_and_may_be_limited(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "adapter", rank_pattern={"layer.1.value": 5})
    assert read(folder, max_rank=5).modules
    assert "layer.1.value has the rank 5, and the largest that is served is 4 (--max-lora-rank)" in refusal(folder, 4)


REFUSED_BY_PEFT_S_OWN = {
    "DoRA": ({"use_dora": True}, "it is DoRA"),
    "biases": ({"bias": "all"}, "it changes biases (bias is 'all')"),
    "whole modules": ({"modules_to_save": ["words"]}, "modules_to_save: 'words'"),
    "a pooler": ({"modules_to_save": ["pooler"]}, "which no embedding is made with"),
    "an embedding": ({"target_modules": ["words", "query"]}, "adapts an embedding"),
    "tokens": ({"trainable_token_indices": {"words": [1]}}, "trains tokens of its own"),
    "PiSSA": ({"init_lora_weights": "pissa"}, "path_initial_model_for_weight_conversion"),
    "OLoRA": ({"init_lora_weights": "olora"}, "path_initial_model_for_weight_conversion"),
}


@pytest.mark.parametrize(("config", "reason"), REFUSED_BY_PEFT_S_OWN.values(), ids=REFUSED_BY_PEFT_S_OWN)
@pytest.mark.filterwarnings("ignore:.*embedding layers found in `target_modules`")
def test_what_peft_saves_and_we_do_not_compute_is_refused(config: dict[str, Any], reason: str, tmp_path: Path) -> None:
    assert reason in refusal(adapter(tmp_path / "adapter", **config))


BAD_CONFIGS = {
    "another method": ({"peft_type": "ADALORA"}, "its peft_type is 'ADALORA'"),
    "no method": ({"peft_type": None}, "its peft_type is None"),
    "a field of tomorrow": ({"use_newlora": {"a": 1}}, "sets 'use_newlora', which cannot be followed"),
    "a bias of LoRA": ({"lora_bias": True}, "it adds a bias (lora_bias)"),
    "repeated layers": ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication"),
    "parameters": ({"target_parameters": ["experts.gate_up_proj"]}, "target_parameters"),
    "activated LoRA": ({"alora_invocation_tokens": [5, 6]}, "alora_invocation_tokens"),
    "LoftQ": ({"init_lora_weights": "loftq"}, "init_lora_weights is 'loftq'"),
    "CorDA": ({"init_lora_weights": "corda"}, "init_lora_weights is 'corda'"),
    "PiSSA in steps": ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights is 'pissa_niter_16'"),
    "LoRA-GA": ({"init_lora_weights": "lora_ga"}, "init_lora_weights is 'lora_ga'"),
    "KaSA": ({"kasa_config": {"beta": 1}}, "kasa_config"),
    "a start of tomorrow": ({"init_lora_weights": "new"}, "init_lora_weights is 'new'"),
    "no targets": ({"target_modules": None}, "does not say target_modules"),
    "other targets": (
        {"target_modules": ["key", "value"]},
        f"changes {QUERY}, which adapter_config.json does not name",
    ),
    "other layers": ({"layers_to_transform": [0]}, "does not name in target_modules"),
    "a rank of zero": ({"r": 0}, "has the rank 0"),
    "a rank below zero in a pattern": ({"rank_pattern": {"query": -1}}, "has the rank -1"),
    "a rank that the weights lack": ({"r": 3}, "do not fit its rank 3"),
    "a rank in words": ({"r": "eight"}, "Expected `int`, got `str` - at `$.r`"),
    "no regular expression": ({"target_modules": "(query"}, "no regular expression"),
    "no regular expression for a rank": ({"rank_pattern": {"*": 2}}, "no regular expression"),
}


@pytest.mark.parametrize(("fields", "reason"), BAD_CONFIGS.values(), ids=BAD_CONFIGS)
def test_a_config_that_cannot_be_followed_is_refused_with_the_reason(
    fields: dict[str, Any], reason: str, folder: Path
) -> None:
    edit_config(folder, **fields)
    assert reason in refusal(folder)


def test_fields_that_are_not_set_or_change_no_vector_are_no_hindrance(folder: Path) -> None:
    edit_config(folder, use_newlora=False, newer=None, newest={}, task_type="FEATURE_EXTRACTION", lora_dropout=0.1)
    edit_config(folder, init_lora_weights="eva", eva_config={"rho": 2.0}, base_model_name_or_path="some/model")
    assert len(read(folder).modules) == 6


def test_every_field_of_this_peft_is_known(folder: Path) -> None:
    """Its default is what a plain adapter has, so a field that is new with another default would show here."""
    config = lora().to_dict()
    config = {name: value for name, value in config.items() if not isinstance(value, set)}
    (folder / "adapter_config.json").write_text(
        json.dumps({**config, "target_modules": ["query", "value"]}, default=vars)
    )
    assert len(read(folder).modules) == 6


def test_pickled_weights_are_not_loaded(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    assert "adapter_model.bin and no adapter_model.safetensors" in refusal(folder)


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    assert f"its folder has no {file}" in refusal(folder)


def test_a_pipe_is_refused_and_not_waited_for(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()
    os.mkfifo(folder / "adapter_model.safetensors")
    assert "adapter_model.safetensors cannot be read: it is no file" in refusal(folder)


def test_a_folder_in_a_file_s_place_is_refused(folder: Path) -> None:
    (folder / "adapter_config.json").unlink()
    (folder / "adapter_config.json").mkdir()
    assert "adapter_config.json cannot be read" in refusal(folder)


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("keep", [0, 5, 40, -4])
def test_a_file_that_was_cut_short_is_refused(folder: Path, file: str, keep: int) -> None:
    (folder / file).write_bytes((folder / file).read_bytes()[:keep])
    assert f"{file} cannot be read" in refusal(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
@pytest.mark.parametrize("factor", ["A", "B"])
def test_weights_that_are_no_finite_numbers_are_refused(folder: Path, value: float, factor: str) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tensors = {name: tensor.double() for name, tensor in tensors.items()}
        tensors[key(QUERY, factor)][0, 0] = value
        return tensors

    edit_weights(folder, spoil)
    assert f"{QUERY} has weights that are no finite numbers" in refusal(folder)


def test_a_scale_that_overflows_is_refused(folder: Path) -> None:
    edit_config(folder, lora_alpha=1e300)
    assert "no finite numbers" in refusal(folder)


TENSORS = {
    "half an adapter": ({key(QUERY, "B"): None}, f"{QUERY} has no lora_B"),
    "the other half": ({key(QUERY, "A"): None}, f"{QUERY} has no lora_A"),
    "an embedding": ({"base_model.model.words.lora_embedding_A": torch.ones(2, 9)}, "adapts an embedding"),
    "a whole embedding": ({"base_model.model.words.weight": torch.ones(9, 6)}, "words.weight is no LoRA: added tokens"),
    "a magnitude": ({f"base_model.model.{QUERY}.lora_magnitude_vector": torch.ones(4)}, "is of DoRA"),
    "a bias": ({f"base_model.model.{QUERY}.lora_B.bias": torch.ones(4)}, "is a bias of its own"),
    "a stranger": ({"prompt": torch.ones(4)}, "its tensor prompt is no LoRA"),
    "ranks that disagree": ({key(QUERY, "B"): torch.ones(4, 3)}, "(2, 6) and (4, 3), which do not fit its rank 2"),
    "a convolution": ({key(QUERY, "A"): torch.ones(2, 6, 1, 1)}, "do not fit its rank"),
    "integers": ({key(QUERY, "A"): torch.ones(2, 6, dtype=torch.int64)}, "weights of the type I64"),
}


@pytest.mark.parametrize(("tensors", "reason"), TENSORS.values(), ids=TENSORS)
def test_a_file_with_other_tensors_is_refused(
    tensors: dict[str, torch.Tensor | None], reason: str, folder: Path
) -> None:
    def change(file: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor for name, tensor in {**file, **tensors}.items() if tensor is not None}

    edit_weights(folder, change)
    assert reason in refusal(folder)


def test_a_file_without_weights_is_refused(folder: Path) -> None:
    edit_weights(folder, lambda tensors: {})
    assert "holds no weights" in refusal(folder)
