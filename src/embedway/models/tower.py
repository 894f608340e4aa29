"""One tower of a dual encoder: a transformer with its norms before attention and MLP, over packed rows.

Queries, keys and values are one product. In a 16-bit type the products are computed in it, while the residual stream
and the layer norms stay float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch

from embedway.models.attention import varlen_attention

if TYPE_CHECKING:
    from collections.abc import Callable

    from embedway.models.attention import PackedLayout
    from embedway.models.cpu_linear import FusedActivation
    from embedway.models.dual_encoder_config import TowerShape
    from embedway.models.fused_linear import Linear, Norm
    from embedway.models.tower_weights import TowerWeights

QUICK_GELU = 1.702
"""quick_gelu(x) is x·sigmoid(1.702x), which is silu(1.702x) / 1.702: oneDNN fuses silu, the factors go into weights."""


class Attention(Protocol):
    """`attention.varlen_attention`, as far as a tower needs it, or what stands in for it."""

    def __call__(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        layout: PackedLayout,
        *,
        causal: bool,
    ) -> torch.Tensor: ...


class Mlp(NamedTuple):
    up: Linear
    down: Linear
    activation: FusedActivation

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[rows, hidden] in the weights' dtype, to the same"""
        return self.down(self.up(x, activation=self.activation))


class Layer(NamedTuple):
    attention_norm: Norm
    qkv: Linear
    out: Linear
    mlp_norm: Norm
    mlp: Mlp


def load_mlp(weights: TowerWeights, name: str, shape: TowerShape) -> Mlp:
    hidden, wide = shape.hidden_size, shape.intermediate_size
    if shape.activation != "quick_gelu":
        up, down = weights.linear(f"{name}.fc1", hidden, wide), weights.linear(f"{name}.fc2", wide, hidden)
        return Mlp(up, down, shape.activation)
    up_weight, up_bias = weights.tensor(f"{name}.fc1.weight", wide, hidden), weights.copy(f"{name}.fc1.bias", wide)
    down_weight = weights.tensor(f"{name}.fc2.weight", hidden, wide)
    return Mlp(
        up=weights.made(up_weight * QUICK_GELU, up_bias * QUICK_GELU),
        down=weights.made(down_weight / QUICK_GELU, weights.copy(f"{name}.fc2.bias", hidden)),
        activation="silu",
    )


def load_layer(weights: TowerWeights, name: str, shape: TowerShape) -> Layer:
    hidden, eps = shape.hidden_size, shape.layer_norm_eps
    projections = [f"{name}.self_attn.{part}_proj" for part in "qkv"]
    qkv = torch.cat([weights.tensor(f"{projection}.weight", hidden, hidden) for projection in projections])
    qkv_bias = torch.cat([weights.tensor(f"{projection}.bias", hidden) for projection in projections])
    return Layer(
        attention_norm=weights.norm(f"{name}.layer_norm1", hidden, eps),
        qkv=weights.made(qkv, qkv_bias),
        out=weights.linear(f"{name}.self_attn.out_proj", hidden, hidden),
        mlp_norm=weights.norm(f"{name}.layer_norm2", hidden, eps),
        mlp=load_mlp(weights, f"{name}.mlp", shape),
    )


class Tower:
    """The layers alone; what comes before and after is the text's or the image's own."""

    def __init__(self, weights: TowerWeights, name: str, shape: TowerShape) -> None:
        self.dtype, self.num_heads = weights.dtype, shape.num_heads
        self.attend: Attention = varlen_attention
        self.make_way: Callable[[], None] | None = None
        self.layers = [load_layer(weights, f"{name}.encoder.layers.{i}", shape) for i in range(shape.num_layers)]

    def __call__(
        self, hidden: torch.Tensor, layout: PackedLayout, *, causal: bool = False, pooled: torch.Tensor | None = None
    ) -> torch.Tensor:
        """float32 [rows, hidden], which is changed, to the last layer's.

        `pooled` (int64 [n]): only these rows are wanted, [n, hidden]; the last layer then does the rest for them alone.
        """
        for layer in self.layers:
            if self.make_way is not None:
                self.make_way()
            mixed = self._attended(layer, hidden, layout, causal=causal)
            if pooled is not None and layer is self.layers[-1]:
                hidden, mixed = hidden[pooled], mixed[pooled]
            hidden += layer.out(mixed)
            hidden += layer.mlp(layer.mlp_norm(hidden).to(self.dtype))
        return hidden

    def _attended(self, layer: Layer, hidden: torch.Tensor, layout: PackedLayout, *, causal: bool) -> torch.Tensor:
        qkv = layer.qkv(layer.attention_norm(hidden).to(self.dtype))
        q, k, v = qkv.unflatten(1, (3, self.num_heads, -1)).unbind(1)
        return self.attend(q, k, v, layout, causal=causal).flatten(1)
