"""Any transformers text model, encoder or decoder, without padding: one forward of [1, total] tokens.

The sequences lie end to end in one row. transformers lets a library put its own attention in place of a model's
(`AttentionInterface`); ours keeps each sequence to itself. Position ids restart at each sequence. Everything else in
these models works token by token, so nothing is padded and nothing leaks; `self_check.py` proves it at each start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers.modeling_utils import AttentionInterface

from embedway.models.attention import varlen_attention
from embedway.models.fused_modules import fuse_on_cuda
from embedway.models.joined_adapters import joined
from embedway.models.packed_rows import with_spare_rows
from embedway.models.torch_adapter import changes_of
from embedway.models.transformer_adapter import changed_linears, make_adapter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from transformers import PreTrainedModel

    from embedway.models.adapter_checkpoint import AdapterWeights
    from embedway.models.attention import PackedLayout
    from embedway.models.torch_adapter import AdaptedRows, TorchAdapter

ATTENTION_NAME = "embedway_packed"
UNKNOWN_TERMS = ("softcap", "position_bias", "s_aux", "head_mask")
"""What some models add to the scores through the interface and `varlen_attention` does not compute."""


def packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    packed_layout: PackedLayout,
    windows_seen: list[int | None] | None = None,
    make_way: Callable[[], None] | None = None,
    **others: object,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: query [1, heads, total, dim], key and value alike to [1, total, heads, dim].

    `packed_layout` arrives as a keyword of the model's forward, which models hand down unread; this holds no state
    between calls, and a model that drops the keyword fails its self-check instead of reading another batch's layout.
    Raises NotImplementedError where the model asks for a term that is not computed here.
    """
    unknown = [name for name in UNKNOWN_TERMS if others.get(name) is not None]
    if attention_mask is not None or unknown:
        raise NotImplementedError(f"packed attention has no {unknown or 'attention_mask'}")
    if windows_seen is not None:
        windows_seen.append(sliding_window)
    if make_way is not None:
        make_way()
    causal = getattr(module, "is_causal", False) if is_causal is None else is_causal
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    out = varlen_attention(q, k, v, packed_layout, scale=scaling, causal=bool(causal), window=sliding_window)
    return out[None], None


# No mask function is registered beside it: transformers then builds no mask at all, where one that returns None would
# still make it look for sequence borders in the position ids at every forward.
AttentionInterface.register(ATTENTION_NAME, packed_attention)


class PackedTransformer:
    """A transformers model whose attention is ours. Takes the model over: its attention implementation is changed, and
    on CUDA the forward of some of its modules."""

    def __init__(self, model: PreTrainedModel) -> None:
        model.set_attn_implementation(ATTENTION_NAME)
        fuse_on_cuda(model)
        self.model = model
        self.first_position = first_position(model)
        self.make_way: Callable[[], None] | None = None

    def hidden_states(
        self,
        token_ids: torch.Tensor,
        layout: PackedLayout,
        adapted: Sequence[AdaptedRows] = (),
        *,
        windows_seen: list[int | None] | None = None,
    ) -> torch.Tensor:
        """int64 [total] to [total, hidden] in the model's dtype; each layer adds its window to `windows_seen`."""
        rows = with_spare_rows(token_ids)
        positions = with_spare_rows(layout.positions + self.first_position)
        inputs = {"input_ids": rows[None], "position_ids": positions[None]}
        return self.run(inputs, layout, adapted, num_rows=len(rows), windows_seen=windows_seen)

    def run(
        self,
        inputs: Mapping[str, object],
        layout: PackedLayout,
        adapted: Sequence[AdaptedRows] = (),
        *,
        num_rows: int,
        windows_seen: list[int | None] | None = None,
    ) -> torch.Tensor:
        """The model's forward of `inputs`, which have num_rows rows with the spare ones; returns [total, hidden]."""
        if layout.cu_seqlens.is_cuda:
            adapted = joined(adapted)
        watch: dict[str, object] = {} if windows_seen is None else {"windows_seen": windows_seen}
        changes = {
            name: changes_of(adapted, name) for name in dict.fromkeys(n for a in adapted for n in a.adapter.changes)
        }
        if not changes and self.make_way is not None:  # another batch would run through this one's adapters
            watch["make_way"] = self.make_way
        with changed_linears(self.model, changes, num_rows=num_rows):
            output = self.model(**inputs, packed_layout=layout, **watch)
        return output[0][0, : layout.num_tokens]

    def make_adapter(self, weights: AdapterWeights) -> TorchAdapter:
        """Raises AdapterRefused."""
        return make_adapter(weights, self.model, own_prefix=self.model.base_model_prefix)


class OneByOneTransformer:
    """Any transformers model as it is, one sequence a forward: for those whose attention cannot be replaced."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.make_way: Callable[[], None] | None = None

    def hidden_states(
        self, token_ids: torch.Tensor, layout: PackedLayout, adapted: Sequence[AdaptedRows] = ()
    ) -> torch.Tensor:
        """int64 [total] to [total, hidden] in the model's dtype"""
        states = []
        for sequence, start in zip(token_ids.split(layout.lengths.tolist()), layout.cu_seqlens.tolist(), strict=False):
            if self.make_way is not None:
                self.make_way()
            own = (rows.adapter for rows in adapted if rows.start <= start < rows.stop)
            # of all rows: such models may send more than the sequence's tokens through a layer, as DeBERTa's distances
            changes = {name: [(slice(None), change)] for adapter in own for name, change in adapter.changes.items()}
            with changed_linears(self.model, changes, num_rows=None):
                states.append(self.model(input_ids=sequence[None])[0][0])
        return torch.cat(states)

    def make_adapter(self, weights: AdapterWeights) -> TorchAdapter:
        """Raises AdapterRefused."""
        return make_adapter(weights, self.model, own_prefix=self.model.base_model_prefix)


def first_position(model: nn.Module) -> int:
    """RoBERTa and its kin number positions from padding_idx + 1, and show it in their position table; others from 0."""
    tables = (module for name, module in model.named_modules() if name.endswith("position_embeddings"))
    paddings = [table.padding_idx for table in tables if isinstance(table, nn.Embedding)]
    return next((padding + 1 for padding in paddings if padding is not None), 0)
