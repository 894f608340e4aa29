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

from embedway.models.attention import varlen_attention
from embedway.models.bert_adapter import layer_adapters
from embedway.models.bert_weights import read_weights
from embedway.models.cpu_linear import NEEDED_GAIN, can_pack, pack_weight, packing_gain
from embedway.models.dense import load_dense_modules
from embedway.models.fused_linear import Linear, Norm
from embedway.models.joined_adapters import joined
from embedway.models.packed_rows import with_spare_rows
from embedway.models.residual_norm import best_norm_of_sum
from embedway.models.text_model import TextModel
from embedway.models.torch_adapter import TorchAdapter
from embedway.models.torch_types import TORCH_TYPES
from embedway.models.weight_dtype import BY_EXACTNESS, StartCheck, declared_dtype, load_in_best_type

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from embedway.kernels.native import EncoderWeights, Floats, GemmType, LayerWeights
    from embedway.kernels.native_adapter import LayerAdapter, LowRank
    from embedway.model_spec import ModelSpec
    from embedway.models.adapter_checkpoint import AdapterWeights
    from embedway.models.attention import PackedLayout
    from embedway.models.bert_config import EncoderConfig
    from embedway.models.interface import EmbeddingModel
    from embedway.models.torch_adapter import AdaptedRows

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
        encoder = FusedBert(config, weights, dtype=TORCH_TYPES[gemm_type], device=place, pack=pack)
        backend = "torch, fused encoder" + (" with oneDNN" if pack else "")
        return TextModel(spec, encoder, dense, dtype=TORCH_TYPES[gemm_type], device=place, backend=backend)

    check = StartCheck.of(spec, config, weights, dense)
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
        config: EncoderConfig,
        weights: EncoderWeights,
        *,
        dtype: torch.dtype,
        device: torch.device,
        pack: bool,
    ) -> None:
        self.config, self.shape = config, config.shape
        self.dtype, self.device, self.is_packed = dtype, device, pack
        self.words = self._float32(weights.word_table)
        self.positions = self._float32(weights.position_table)
        if weights.token_type is not None:  # of all tokens the first type
            self.positions = self.positions + self._float32(weights.token_type)
        self.norm = self._norm(weights.norm_weight, weights.norm_bias)
        self.norm_of_sum = best_norm_of_sum(self.norm, dtype)
        self.layers = [self._layer(i, layer) for i, layer in enumerate(weights.layers)]
        self.relative_bias = None if weights.relative_bias is None else self._float32(weights.relative_bias).to(dtype)
        self.square_bias = torch.empty(0, 0, 0)
        self.make_way: Callable[[], None] | None = None

    def hidden_states(
        self, token_ids: torch.Tensor, layout: PackedLayout, adapted: Sequence[AdaptedRows] = ()
    ) -> torch.Tensor:
        """int64 [total] to float32 [total, hidden]"""
        if self.device.type == "cuda":
            adapted = joined(adapted)
        positions = layout.positions + self.shape.first_position
        words, places = self.words[with_spare_rows(token_ids)], self.positions[with_spare_rows(positions)]
        hidden, narrow = self.norm_of_sum(words, places, self.norm, self.dtype)
        bias = None if self.relative_bias is None else self.position_bias
        for layer in self.layers:
            if self.make_way is not None:
                self.make_way()
            q, k, v = layer.qkv(narrow, adapted).unflatten(1, (3, self.shape.num_heads, -1)).unbind(1)
            mixed = layer.attention(varlen_attention(q, k, v, layout, bias=bias).flatten(1), adapted)
            hidden, narrow = self.norm_of_sum(hidden, mixed, layer.attention_norm, self.dtype)
            down = layer.down(layer.up(narrow, adapted, self.shape.activation), adapted)
            hidden, narrow = self.norm_of_sum(hidden, down, layer.output_norm, self.dtype)
        return hidden[: len(token_ids)]

    def make_adapter(self, weights: AdapterWeights) -> TorchAdapter:
        """Raises AdapterRefused."""
        layers = enumerate(layer_adapters(weights, self.config))
        changes = {f"{i}.{name}": parts for i, layer in layers for name, parts in self._changed(layer)}
        return TorchAdapter.of(weights.name, changes, dtype=self.dtype, device=self.device)

    def position_bias(self, length: int) -> torch.Tensor:
        """[heads, length, length]: a corner of one kept square, since the bias depends on the distance alone."""
        assert self.relative_bias is not None
        if self.square_bias.shape[-1] < length:
            size = max(SMALLEST_BIAS, 1 << (length - 1).bit_length())
            places, reach = torch.arange(size, device=self.device), self.relative_bias.shape[1] // 2
            columns = (places[None, :] - places[:, None]).clamp(-reach, reach) + reach
            self.square_bias = self.relative_bias[:, columns]
        return self.square_bias[:, :length, :length]

    def _changed(self, layer: LayerAdapter) -> Iterator[tuple[str, list[tuple[int, LowRank]]]]:
        """What changes of one layer: a field of `Layer`, and each part of it from its first column on"""
        hidden = self.shape.hidden_size
        columns = {
            "qkv": ((0, layer.query), (hidden, layer.key), (2 * hidden, layer.value)),
            "attention": ((0, layer.attention),),
            "up": ((0, layer.up),),
            "down": ((0, layer.down),),
        }
        for name, parts in columns.items():
            changed = [(column, part) for column, part in parts if part is not None]
            if changed:
                yield name, changed

    def _layer(self, i: int, layer: LayerWeights) -> Layer:
        return Layer(
            qkv=self._linear(f"{i}.qkv", layer.qkv_weight, layer.qkv_bias),
            attention=self._linear(f"{i}.attention", layer.attention_weight, layer.attention_bias),
            attention_norm=self._norm(layer.attention_norm_weight, layer.attention_norm_bias),
            up=self._linear(f"{i}.up", layer.up_weight, layer.up_bias),
            down=self._linear(f"{i}.down", layer.down_weight, layer.down_bias),
            output_norm=self._norm(layer.output_norm_weight, layer.output_norm_bias),
        )

    def _linear(self, name: str, weight: Floats, bias: Floats) -> Linear:
        plain, own_bias = self._float32(weight).to(self.dtype), self._float32(bias).to(self.dtype)
        return Linear(name, pack_weight(plain) if self.is_packed else plain, own_bias, self.is_packed)

    def _norm(self, weight: Floats, bias: Floats) -> Norm:
        return Norm(self._float32(weight), self._float32(bias), self.shape.layer_norm_eps)

    def _float32(self, values: Floats) -> torch.Tensor:
        return torch.from_numpy(values).to(self.device)
