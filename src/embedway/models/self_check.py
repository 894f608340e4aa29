"""The start-up check: packed sequences must give what transformers gives for each alone, or the model is not packed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from embedway.models.attention import packed_layout
from embedway.models.packed_transformer import OneByOneTransformer, PackedTransformer
from embedway.models.sample_batch import sample_batch

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from embedway.model_spec import ModelSpec
    from embedway.models.attention import PackedLayout
    from embedway.models.text_model import TokenEncoder

logger = logging.getLogger("embedway.models")

TOLERANCES = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 6e-2}
"""Largest relative L2 difference of a sequence's states: rounding stays below, another sequence's tokens do not."""
SAMPLE_LENGTHS = (5, 9)


class SelfCheck:
    """What transformers itself computes for two short sequences. Made before anything about the model is changed."""

    def __init__(self, model: PreTrainedModel, spec: ModelSpec) -> None:
        batch, device = sample_batch(SAMPLE_LENGTHS, spec), next(model.parameters()).device
        self.layout: PackedLayout = packed_layout(batch.cu_seqlens, device)
        self.token_ids = torch.as_tensor(batch.token_ids).to(device, torch.int64)
        with torch.inference_mode():
            self.expected = OneByOneTransformer(model).hidden_states(self.token_ids, self.layout)

    def passes(self, encoder: TokenEncoder) -> bool:
        """Whether the encoder agrees. One that raises does not: its model cannot take packed input."""
        windows: list[int | None] = []
        try:
            with torch.inference_mode():
                if isinstance(encoder, PackedTransformer):
                    got = encoder.hidden_states(self.token_ids, self.layout, windows_seen=windows)
                    if not windows_match(encoder.model.config, windows):
                        return False
                else:
                    got = encoder.hidden_states(self.token_ids, self.layout)
        except Exception as error:  # whatever a foreign model's forward raises
            logger.debug("packed self-check raised %r", error)
            return False
        difference = worst_difference(got, self.expected, self.layout.lengths.tolist())
        return difference <= TOLERANCES[self.expected.dtype]


def worst_difference(got: torch.Tensor, expected: torch.Tensor, lengths: list[int]) -> float:
    """Of the sequences' states, [total, hidden] both: relative L2, infinite where they cannot be compared"""
    if got.shape != expected.shape:
        return float("inf")
    pairs = zip(got.float().split(lengths), expected.float().split(lengths), strict=True)
    return max(((a - b).norm() / b.norm().clamp_min(1e-12)).nan_to_num(float("inf")).item() for a, b in pairs)


def windows_match(config: PreTrainedConfig, windows: list[int | None]) -> bool:
    """Whether the layers asked for the windows that `config.json` declares.

    The sample is shorter than real windows, so a model that makes its windows by masks alone would pass unseen.
    """
    text = config.get_text_config()
    kinds = getattr(text, "layer_types", None)
    asked = sum(window is not None for window in windows)
    if kinds is not None:
        known = set(kinds) <= {"full_attention", "sliding_attention"}
        return known and asked == list(kinds).count("sliding_attention")
    declared = getattr(text, "sliding_window", None) is not None and getattr(text, "use_sliding_window", True)
    return asked > 0 or not declared


def positions_stand_alone(model: PreTrainedModel, max_length: int) -> bool:
    """Whether a sequence's rotary positions depend on nothing but itself.

    Dynamic NTK and LongRoPE choose their frequencies by the longest sequence of the forward once that exceeds the
    length of the pre-training, so there a neighbour in the row would change a sequence's vector.
    """
    for module in model.modules():
        declared = getattr(module, "rope_type", None)
        kinds = set(declared.values()) if isinstance(declared, dict) else {declared}
        if any(kind is not None and ("dynamic" in kind or kind == "longrope") for kind in kinds):
            parameters = getattr(model.config, "rope_parameters", None) or {}
            limit = parameters.get("original_max_position_embeddings") or getattr(module, "original_max_seq_len", 0)
            return max_length <= limit
    return True
