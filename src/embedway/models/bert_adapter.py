"""A LoRA adapter for an encoder of BERT's kind: the family's names → LayerAdapters. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedway.kernels.native_adapter import LayerAdapter
from embedway.models.adapter_modules import match_modules

if TYPE_CHECKING:
    from embedway.models.adapter_checkpoint import AdapterWeights
    from embedway.models.bert_config import EncoderConfig


def layer_adapters(weights: AdapterWeights, config: EncoderConfig) -> list[LayerAdapter]:
    """One a layer. Raises AdapterRefused where the adapter changes more than the layers' six linear ones."""
    hidden, wide = config.shape.hidden_size, config.shape.intermediate_size
    parts = config.family.layer
    names = {
        "query": parts.query,
        "key": parts.key,
        "value": parts.value,
        "attention": parts.attention,
        "up": parts.up,
        "down": parts.down,
    }
    sizes = {"up": (wide, hidden), "down": (hidden, wide)}
    layers = [parts.layer.format(i) for i in range(config.num_layers)]
    shapes = {layer + name: sizes.get(part, (hidden, hidden)) for layer in layers for part, name in names.items()}
    changes = match_modules(weights, shapes, own_prefix=config.family.prefix)
    return [LayerAdapter(**{part: changes.get(layer + name) for part, name in names.items()}) for layer in layers]
