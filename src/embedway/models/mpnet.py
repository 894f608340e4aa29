"""MPNet without padding. Its relative position bias is computed over a whole row and its attention is its own, so
transformers' attention interface does not reach it; the rest of each layer is used as it is.

Paper: MPNet, arXiv:2004.09297; the bias in buckets is T5's, arXiv:1910.10683.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from embedway.models.attention import varlen_attention
from embedway.models.packed_transformer import first_position, packed_positions, with_spare_rows

if TYPE_CHECKING:
    from transformers.models.mpnet.modeling_mpnet import MPNetLayer, MPNetModel

    from embedway.models.attention import PackedLayout

SMALLEST_TABLE = 128


class PackedMpnet:
    """Runs the layers of a transformers MPNetModel over packed sequences."""

    def __init__(self, model: MPNetModel) -> None:
        self.model = model
        self.first_position = first_position(model)
        self.layers = cast("list[MPNetLayer]", list(model.encoder.layer))
        self.table = torch.empty(0, 0, 0)

    def hidden_states(self, token_ids: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        """int64 [total] to [total, hidden] in the model's dtype"""
        rows, positions = (with_spare_rows(ids) for ids in (token_ids, packed_positions(layout, self.first_position)))
        hidden = self.model.embeddings(input_ids=rows[None], position_ids=positions[None])[0]
        for layer in self.layers:
            hidden = self._layer(layer, hidden, layout)
        return hidden[: len(token_ids)]

    def _layer(self, layer: MPNetLayer, hidden: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        attention = layer.attention.attn
        heads = (attention.num_attention_heads, attention.attention_head_size)
        q, k, v = (project(hidden).unflatten(1, heads) for project in (attention.q, attention.k, attention.v))
        mixed = varlen_attention(q, k, v, layout, bias=self.position_bias).flatten(1)  # [total, hidden]
        hidden = layer.attention.LayerNorm(attention.o(mixed) + hidden)
        return layer.output(layer.intermediate(hidden), hidden)

    def position_bias(self, length: int) -> torch.Tensor:
        """[heads, length, length]: a corner of one kept table, since the bias depends on the distance alone."""
        if self.table.shape[-1] < length:
            size = max(SMALLEST_TABLE, 1 << (length - 1).bit_length())
            row = self.model.encoder.relative_attention_bias.weight.new_empty(1, size, 0)
            self.table = self.model.encoder.compute_position_bias(row)[0]
        return self.table[:, :length, :length]
