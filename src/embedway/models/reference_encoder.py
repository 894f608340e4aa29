"""The encoder of BERT's kind in plain numpy, float32: slow, and easy to check by reading.

The native library and the fused torch encoder are compared with it at every start (`weight_dtype.py`), on the machine
and the weights that they will run with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from embedway.models.activations import gelu, gelu_tanh, relu
from embedway.models.numpy_pooling import pool

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from embedway.kernels.native import Activation, EncoderShape, EncoderWeights, Floats, LayerWeights, PoolingMode
    from embedway.kernels.native_adapter import LayerAdapter, LowRank

    Adapter: TypeAlias = Sequence[LayerAdapter]
    """One of each layer"""

ACTIVATIONS: dict[Activation, Callable[[Floats], Floats]] = {"gelu": gelu, "gelu_tanh": gelu_tanh, "relu": relu}


class AdaptedRows(NamedTuple):
    """The tokens of all sequences with one adapter, and what it changes of one layer."""

    rows: npt.NDArray[np.intp]
    layer: LayerAdapter


@dataclass(frozen=True, slots=True)
class ReferenceEncoder:
    """Has the methods of `kernels.native.NativeEncoder`. The weights are read where they are, never copied."""

    shape: EncoderShape
    weights: EncoderWeights

    def embed(
        self,
        token_ids: npt.NDArray[np.int32],
        cu_seqlens: npt.NDArray[np.int32],
        pool_starts: npt.NDArray[np.int32],
        pooling: PoolingMode,
        *,
        adapters: Sequence[Adapter] = (),
        adapter_indices: npt.NDArray[np.int32] | None = None,
    ) -> Floats:
        """float32 [n, hidden]"""
        hidden = self.hidden_states(token_ids, cu_seqlens, adapters=adapters, adapter_indices=adapter_indices)
        return pool(hidden, cu_seqlens, pool_starts, (pooling,))

    def make_adapter(self, layers: Adapter) -> Adapter:
        return layers

    def allow_preemption(self, at: npt.NDArray[np.int64], run: Callable[[], None]) -> None:
        """No batch makes way: other models are compared with this one, and nobody waits for it."""

    def hidden_states(
        self,
        token_ids: npt.NDArray[np.int32],
        cu_seqlens: npt.NDArray[np.int32],
        *,
        adapters: Sequence[Adapter] = (),
        adapter_indices: npt.NDArray[np.int32] | None = None,
    ) -> Floats:
        """float32 [total, hidden]"""
        w, lengths = self.weights, np.diff(cu_seqlens)
        positions = np.concatenate([np.arange(length) for length in lengths]) + self.shape.first_position
        hidden = w.word_table[token_ids] + w.position_table[positions]
        if w.token_type is not None:
            hidden += w.token_type
        hidden = self._norm(hidden, w.norm_weight, w.norm_bias)
        by_row = None if adapter_indices is None else np.repeat(adapter_indices, lengths)
        for i, layer in enumerate(w.layers):
            adapted = [AdaptedRows(np.flatnonzero(by_row == j), adapter[i]) for j, adapter in enumerate(adapters)]
            hidden = self._layer(hidden, layer, cu_seqlens, adapted)
        return hidden

    def _layer(
        self, hidden: Floats, layer: LayerWeights, cu_seqlens: npt.NDArray[np.int32], adapted: Sequence[AdaptedRows]
    ) -> Floats:
        """[total, hidden] to the same"""
        qkv = hidden @ layer.qkv_weight.T + layer.qkv_bias
        q, k, v = np.split(qkv, 3, axis=1)  # views
        for rows, change in adapted:
            for out, part in ((q, change.query), (k, change.key), (v, change.value)):
                add_change(out, hidden, rows, part)
        attended = np.concatenate([self._attend(sequence) for sequence in np.split(qkv, cu_seqlens[1:-1])])
        mixed = attended @ layer.attention_weight.T + layer.attention_bias
        for rows, change in adapted:
            add_change(mixed, attended, rows, change.attention)
        hidden = self._norm(hidden + mixed, layer.attention_norm_weight, layer.attention_norm_bias)
        wide = hidden @ layer.up_weight.T + layer.up_bias
        for rows, change in adapted:
            add_change(wide, hidden, rows, change.up)
        wide = ACTIVATIONS[self.shape.activation](wide)
        narrow = wide @ layer.down_weight.T + layer.down_bias
        for rows, change in adapted:
            add_change(narrow, wide, rows, change.down)
        return self._norm(hidden + narrow, layer.output_norm_weight, layer.output_norm_bias)

    def _attend(self, qkv: Floats) -> Floats:
        """One sequence: [length, 3 · hidden] to [length, hidden]"""
        heads = self.shape.num_heads
        q, k, v = qkv.reshape(len(qkv), 3, heads, -1).transpose(1, 2, 0, 3)  # each [heads, length, size]
        scores = q @ k.swapaxes(1, 2) / np.float32(math.sqrt(q.shape[2]))
        if self.weights.relative_bias is not None:
            scores = scores + bias_of(self.weights.relative_bias, len(qkv))
        shares = np.exp(scores - scores.max(axis=2, keepdims=True))
        shares /= shares.sum(axis=2, keepdims=True)
        return (shares @ v).swapaxes(0, 1).reshape(len(qkv), -1)

    def _norm(self, x: Floats, weight: Floats, bias: Floats) -> Floats:
        centred = x - x.mean(axis=1, keepdims=True)
        variance = np.square(centred).mean(axis=1, keepdims=True)
        return centred / np.sqrt(variance + np.float32(self.shape.layer_norm_eps)) * weight + bias


def add_change(out: Floats, x: Floats, rows: npt.NDArray[np.intp], change: LowRank | None) -> None:
    """In place: what an adapter adds to a linear layer's output for some rows of its input"""
    if change is not None:
        out[rows] += x[rows] @ change.down.T @ change.up.T


def bias_of(table: Floats, length: int) -> Floats:
    """MPNet's [heads, 2 · reach + 1] by distance → [heads, length, length]"""
    reach = table.shape[1] // 2
    distance = np.arange(length)[None, :] - np.arange(length)[:, None]
    return table[:, np.clip(distance, -reach, reach) + reach]
