from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from checkpoints import tiny_checkpoint, tiny_spec
from embedway.errors import UnsupportedCheckpoint
from embedway.models.bert_config import read_encoder_config
from embedway.models.bert_weights import read_weights, relative_bias
from embedway.models.reference_encoder import bias_of

if TYPE_CHECKING:
    from pathlib import Path

    from embedway.kernels.native import EncoderWeights


def weights_of(folder: Path) -> EncoderWeights:
    spec = tiny_spec(folder)
    config = read_encoder_config(spec)
    assert config is not None
    return read_weights(spec, config)


def rename(folder: Path, old: str, new: str) -> None:
    path = folder / "model.safetensors"
    save_file({name.replace(old, new): tensor for name, tensor in load_file(path).items()}, path)


def edit_config(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


@pytest.mark.parametrize(
    ("family", "prefix"),
    [("bert", "bert."), ("roberta", "roberta."), ("distilbert", "distilbert."), ("mpnet", "mpnet.")],
)
def test_the_prefix_of_a_checkpoint_with_a_head_is_seen_through(tmp_path: Path, family: str, prefix: str) -> None:
    folder = tiny_checkpoint(family, tmp_path)
    plain = weights_of(folder)
    tensors = load_file(folder / "model.safetensors")
    headed = {prefix + name: tensor for name, tensor in tensors.items()} | {"cls.bias": torch.zeros(3)}
    save_file(headed, folder / "model.safetensors")
    np.testing.assert_array_equal(weights_of(folder).layers[1].qkv_weight, plain.layers[1].qkv_weight)


def test_norms_with_tensorflow_s_names_are_found(tmp_path: Path) -> None:
    folder = tiny_checkpoint("bert", tmp_path)
    plain = weights_of(folder)
    rename(folder, "LayerNorm.weight", "LayerNorm.gamma")
    rename(folder, "LayerNorm.bias", "LayerNorm.beta")
    read = weights_of(folder)
    np.testing.assert_array_equal(read.norm_bias, plain.norm_bias)
    np.testing.assert_array_equal(read.layers[0].output_norm_weight, plain.layers[0].output_norm_weight)


def test_missing_weights_are_refused_by_name_and_number(tmp_path: Path) -> None:
    folder = tiny_checkpoint("mpnet", tmp_path)
    rename(folder, "layer.1.attention.attn.k", "layer.1.attention.attn.other")
    with pytest.raises(UnsupportedCheckpoint, match=r"lacks the weight .*\.layer\.1\.attention\.attn\.k\.bias and 1"):
        weights_of(folder)


def test_a_weight_of_another_shape_is_refused_by_name(tmp_path: Path) -> None:
    folder = tiny_checkpoint("distilbert", tmp_path)
    edit_config(folder, hidden_dim=65)
    with pytest.raises(UnsupportedCheckpoint, match=r"wrong shape for the weight transformer\.layer\.0\.ffn\.lin1"):
        weights_of(folder)


def test_more_tokens_than_positions_are_refused(tmp_path: Path) -> None:
    spec = tiny_spec(tiny_checkpoint("roberta", tmp_path, max_seq_length=16))
    config = read_encoder_config(spec)
    assert config is not None
    read_weights(spec, config)
    with pytest.raises(UnsupportedCheckpoint, match="18 positions are too few for 17 tokens"):
        read_weights(msgspec.structs.replace(spec, max_length=17), config)


@torch.inference_mode()
def test_the_bias_of_each_distance_is_what_transformers_computes(tmp_path: Path) -> None:
    mpnet = transformers.MPNetModel.from_pretrained(tiny_checkpoint("mpnet", tmp_path))
    table = relative_bias(mpnet.encoder.relative_attention_bias.weight.numpy())
    for length in (1, 7, 130, 300):
        expected = mpnet.encoder.compute_position_bias(torch.empty(1, length, 0))[0]
        np.testing.assert_array_equal(bias_of(table, length), expected.numpy())
