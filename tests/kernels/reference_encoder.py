"""A BERT-family encoder in plain numpy float64, and random ones to compare it with."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from embedway.kernels.native import Activation, EncoderShape, EncoderWeights, LayerWeights
from embedway.kernels.native_adapter import LayerAdapter, LowRank

Doubles = npt.NDArray[np.float64]
erf = np.vectorize(math.erf)

ACTIVATIONS = {
    "gelu": lambda x: x / 2 * (1 + erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
}


def random_encoder(
    seed: int,
    *,
    heads: int = 4,
    head_size: int = 32,
    intermediate: int = 96,
    layers: int = 2,
    activation: Activation = "gelu",
    vocabulary: int = 64,
    positions: int = 300,
    first_position: int = 0,
    has_types: bool = True,
    reach: int | None = None,
) -> tuple[EncoderShape, EncoderWeights]:
    rng = np.random.default_rng(seed)
    hidden = heads * head_size

    def draw(*size: int, scale: float = 1.0) -> npt.NDArray[np.float32]:
        return (rng.standard_normal(size) * scale).astype(np.float32)

    shape = EncoderShape(
        hidden_size=hidden,
        num_heads=heads,
        intermediate_size=intermediate,
        layer_norm_eps=1e-5,
        activation=activation,
        first_position=first_position,
    )
    weights = EncoderWeights(
        word_table=draw(vocabulary, hidden),
        position_table=draw(positions, hidden),
        token_type=draw(hidden) if has_types else None,
        norm_weight=1 + draw(hidden, scale=0.1),
        norm_bias=draw(hidden, scale=0.1),
        relative_bias=None if reach is None else draw(heads, 2 * reach + 1),
        layers=[
            LayerWeights(
                qkv_weight=draw(3 * hidden, hidden, scale=hidden**-0.5),
                qkv_bias=draw(3 * hidden, scale=0.1),
                attention_weight=draw(hidden, hidden, scale=hidden**-0.5),
                attention_bias=draw(hidden, scale=0.1),
                attention_norm_weight=1 + draw(hidden, scale=0.1),
                attention_norm_bias=draw(hidden, scale=0.1),
                up_weight=draw(intermediate, hidden, scale=hidden**-0.5),
                up_bias=draw(intermediate, scale=0.1),
                down_weight=draw(hidden, intermediate, scale=intermediate**-0.5),
                down_bias=draw(hidden, scale=0.1),
                output_norm_weight=1 + draw(hidden, scale=0.1),
                output_norm_bias=draw(hidden, scale=0.1),
            )
            for _ in range(layers)
        ],
    )
    return shape, weights


PROJECTIONS = ("query", "key", "value", "attention", "up", "down")


def random_adapter(
    seed: int,
    shape: EncoderShape,
    layers: int,
    *,
    rank: int | None = 8,
    projections: Sequence[str] = PROJECTIONS,
) -> list[LayerAdapter]:
    """Changes about half as large as the weights; rank None: another one for each projection, from 1 to 80."""
    rng = np.random.default_rng(seed)
    hidden, intermediate = shape.hidden_size, shape.intermediate_size
    sizes = {"up": (intermediate, hidden), "down": (hidden, intermediate)}

    def draw(name: str) -> LowRank:
        out_features, in_features = sizes.get(name, (hidden, hidden))
        width = rank or int(rng.integers(1, 81))
        down = rng.standard_normal((width, in_features)) * in_features**-0.5
        up = rng.standard_normal((out_features, width)) * width**-0.5 / 2
        return LowRank(down.astype(np.float32), up.astype(np.float32))

    return [LayerAdapter(**{name: draw(name) for name in projections}) for _ in range(layers)]


def with_adapter(weights: EncoderWeights, adapter: Sequence[LayerAdapter]) -> EncoderWeights:
    """The encoder whose weights are those and the adapter's changes, multiplied out."""

    def changed(weight: npt.NDArray[np.float32], *changes: LowRank | None) -> npt.NDArray[np.float32]:
        parts = np.split(weight.astype(np.float64), len(changes))
        for part, change in zip(parts, changes, strict=True):
            if change is not None:
                part += change.up.astype(np.float64) @ change.down
        return np.concatenate(parts).astype(np.float32)

    layers = [
        dataclasses.replace(
            layer,
            qkv_weight=changed(layer.qkv_weight, change.query, change.key, change.value),
            attention_weight=changed(layer.attention_weight, change.attention),
            up_weight=changed(layer.up_weight, change.up),
            down_weight=changed(layer.down_weight, change.down),
        )
        for layer, change in zip(weights.layers, adapter, strict=True)
    ]
    return dataclasses.replace(weights, layers=layers)


def hidden_states(shape: EncoderShape, weights: EncoderWeights, token_ids: npt.NDArray[np.int32]) -> Doubles:
    """float64 [length, hidden]: the last states of one sequence"""
    length, heads = len(token_ids), shape.num_heads
    x = weights.word_table[token_ids].astype(np.float64)
    x += weights.position_table[shape.first_position : shape.first_position + length]
    if weights.token_type is not None:
        x += weights.token_type
    x = layer_norm(x, weights.norm_weight, weights.norm_bias, shape.layer_norm_eps)
    bias = relative_bias(weights, length)
    for layer in weights.layers:
        qkv = x @ layer.qkv_weight.T.astype(np.float64) + layer.qkv_bias
        q, k, v = (part.reshape(length, heads, -1).swapaxes(0, 1) for part in np.split(qkv, 3, axis=1))
        scores = q @ k.swapaxes(1, 2) / math.sqrt(q.shape[2]) + bias
        powers = np.exp(scores - scores.max(axis=2, keepdims=True))
        mixed = (powers / powers.sum(axis=2, keepdims=True)) @ v
        x = x + mixed.swapaxes(0, 1).reshape(length, -1) @ layer.attention_weight.T + layer.attention_bias
        x = layer_norm(x, layer.attention_norm_weight, layer.attention_norm_bias, shape.layer_norm_eps)
        up = ACTIVATIONS[shape.activation](x @ layer.up_weight.T + layer.up_bias)
        x = x + up @ layer.down_weight.T + layer.down_bias
        x = layer_norm(x, layer.output_norm_weight, layer.output_norm_bias, shape.layer_norm_eps)
    return x


def relative_bias(weights: EncoderWeights, length: int) -> Doubles | float:
    if weights.relative_bias is None:
        return 0.0
    reach = weights.relative_bias.shape[1] // 2
    distance = np.arange(length)[None, :] - np.arange(length)[:, None]
    return weights.relative_bias[:, np.clip(distance, -reach, reach) + reach].astype(np.float64)


def layer_norm(x: Doubles, weight: npt.ArrayLike, bias: npt.ArrayLike, epsilon: float) -> Doubles:
    mean, variance = x.mean(axis=1, keepdims=True), x.var(axis=1, keepdims=True)
    return (x - mean) / np.sqrt(variance + epsilon) * weight + bias
