"""The encoder of BERT's kind in torch, fused: on CUDA, and on a CPU where the native library is missing.

Queries, keys and values are one product, weights lie in oneDNN's own layout with GELU in the same call, and attention
takes sequences of one length together. In a 16-bit type the products are computed in it, while the residual stream and
the layer norms stay float32: cosine 0.99997 to float32 instead of 0.99991 on MiniLM (bfloat16), for 7% of the speed.
Weights come from `bert_weights.py`, so transformers is not imported.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn import functional

from embedway.models.attention import varlen_attention
from embedway.models.bert_weights import read_weights
from embedway.models.cpu_linear import NEEDED_GAIN, can_pack, pack_weight, packed_linear, packing_gain
from embedway.models.dense import load_dense_modules
from embedway.models.packed_rows import packed_positions, with_spare_rows
from embedway.models.text_model import TextModel
from embedway.models.torch_types import TORCH_TYPES
from embedway.models.weight_dtype import BY_EXACTNESS, StartCheck, declared_dtype, load_in_best_type

if TYPE_CHECKING:
    from embedway.kernels.native import Activation, EncoderShape, EncoderWeights, Floats, GemmType, LayerWeights
    from embedway.model_spec import ModelSpec
    from embedway.models.attention import PackedLayout
    from embedway.models.bert_config import EncoderConfig
    from embedway.models.interface import EmbeddingModel

SMALLEST_BIAS = 128


def load_bert_family(
    spec: ModelSpec, config: EncoderConfig, *, dtype: str, device: str, threads: int
) -> EmbeddingModel | None:
    """The fused model; None where it fails its check. Raises UnsupportedCheckpoint."""
    place = torch.device(device)
    weights, dense = read_weights(spec, config), load_dense_modules(spec)

    @functools.cache
    def pays(dtype: torch.dtype) -> bool:
        return place.type == "cpu" and pays_to_pack(weights.layers[0], dtype)

    def make(gemm_type: GemmType, weights: EncoderWeights, threads: int) -> TextModel:
        torch.set_num_threads(threads)  # the whole process's, so the last model's count
        pack = pays(TORCH_TYPES[gemm_type])
        encoder = FusedBert(config.shape, weights, dtype=TORCH_TYPES[gemm_type], device=place, pack=pack)
        backend = "torch, fused encoder" + (" with oneDNN" if pack else "")
        return TextModel(spec, encoder, dense, dtype=TORCH_TYPES[gemm_type], device=place, backend=backend)

    check = StartCheck.of(spec, config.shape, weights, dense)
    on_cpu = place.type == "cpu"
    possible = [name for name in BY_EXACTNESS if name == "float32" or can_pack(TORCH_TYPES[name])] if on_cpu else []
    asked = declared_dtype(spec) if dtype == "auto" and not on_cpu else dtype
    return load_in_best_type(asked, possible, spec=spec, weights=weights, make=make, threads=threads, check=check)


def pays_to_pack(layer: LayerWeights, dtype: torch.dtype) -> bool:
    """Whether oneDNN's own layout of the weights is faster on this CPU."""
    if not can_pack(dtype):
        return False
    weight, bias = (torch.from_numpy(x).to(dtype) for x in (layer.up_weight, layer.up_bias))
    return packing_gain(weight, bias) >= NEEDED_GAIN


class Linear(NamedTuple):
    """A layer's weight, in oneDNN's layout where `is_packed`, and bias."""

    weight: torch.Tensor
    bias: torch.Tensor
    is_packed: bool

    def __call__(self, x: torch.Tensor, activation: Activation | None = None) -> torch.Tensor:
        """[rows, in] to [rows, out], in the weight's dtype"""
        if self.is_packed:
            return packed_linear(x, self.weight, self.bias, activation)
        out = functional.linear(x, self.weight, self.bias)
        match activation:
            case "gelu":
                return functional.gelu(out)
            case "gelu_tanh":
                return functional.gelu(out, approximate="tanh")
            case "relu":
                return functional.relu(out)
            case None:
                return out


class Norm(NamedTuple):
    """Layer norm, float32."""

    weight: torch.Tensor
    bias: torch.Tensor
    eps: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)


class Layer(NamedTuple):
    qkv: Linear
    attention: Linear
    attention_norm: Norm
    up: Linear
    down: Linear
    output_norm: Norm


class FusedBert:
    """A `text_model.TokenEncoder`. Tables stay float32; on a CPU they stay where `weights` has them."""

    def __init__(
        self,
        shape: EncoderShape,
        weights: EncoderWeights,
        *,
        dtype: torch.dtype,
        device: torch.device,
        pack: bool,
    ) -> None:
        self.shape, self.dtype, self.device, self.is_packed = shape, dtype, device, pack
        self.words = self._float32(weights.word_table)
        self.positions = self._float32(weights.position_table)
        self.token_type = None if weights.token_type is None else self._float32(weights.token_type)
        self.norm = self._norm(weights.norm_weight, weights.norm_bias)
        self.layers = [self._layer(layer) for layer in weights.layers]
        self.relative_bias = None if weights.relative_bias is None else self._float32(weights.relative_bias).to(dtype)
        self.square_bias = torch.empty(0, 0, 0)

    def hidden_states(self, token_ids: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        """int64 [total] to float32 [total, hidden]"""
        positions = packed_positions(layout, self.shape.first_position)
        hidden = self.words[with_spare_rows(token_ids)] + self.positions[with_spare_rows(positions)]
        if self.token_type is not None:
            hidden += self.token_type
        hidden = self.norm(hidden)
        bias = None if self.relative_bias is None else self.position_bias
        for layer in self.layers:
            q, k, v = layer.qkv(hidden.to(self.dtype)).unflatten(1, (3, self.shape.num_heads, -1)).unbind(1)
            mixed = layer.attention(varlen_attention(q, k, v, layout, bias=bias).flatten(1))
            hidden = layer.attention_norm(hidden + mixed)
            wide = layer.up(hidden.to(self.dtype), self.shape.activation)
            hidden = layer.output_norm(hidden + layer.down(wide))
        return hidden[: len(token_ids)]

    def position_bias(self, length: int) -> torch.Tensor:
        """[heads, length, length]: a corner of one kept square, since the bias depends on the distance alone."""
        assert self.relative_bias is not None
        if self.square_bias.shape[-1] < length:
            size = max(SMALLEST_BIAS, 1 << (length - 1).bit_length())
            places, reach = torch.arange(size, device=self.device), self.relative_bias.shape[1] // 2
            columns = (places[None, :] - places[:, None]).clamp(-reach, reach) + reach
            self.square_bias = self.relative_bias[:, columns]
        return self.square_bias[:, :length, :length]

    def _layer(self, layer: LayerWeights) -> Layer:
        return Layer(
            qkv=self._linear(layer.qkv_weight, layer.qkv_bias),
            attention=self._linear(layer.attention_weight, layer.attention_bias),
            attention_norm=self._norm(layer.attention_norm_weight, layer.attention_norm_bias),
            up=self._linear(layer.up_weight, layer.up_bias),
            down=self._linear(layer.down_weight, layer.down_bias),
            output_norm=self._norm(layer.output_norm_weight, layer.output_norm_bias),
        )

    def _linear(self, weight: Floats, bias: Floats) -> Linear:
        plain, own_bias = self._float32(weight).to(self.dtype), self._float32(bias).to(self.dtype)
        return Linear(pack_weight(plain) if self.is_packed else plain, own_bias, self.is_packed)

    def _norm(self, weight: Floats, bias: Floats) -> Norm:
        return Norm(self._float32(weight), self._float32(bias), self.shape.layer_norm_eps)

    def _float32(self, values: Floats) -> torch.Tensor:
        return torch.from_numpy(values).to(self.device)
