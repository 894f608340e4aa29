"""How many tokens an item may have: sentence-transformers' default, held to what the model's positions can take.

sentence-transformers 6.2 takes `max_seq_length` where it is declared, else the smaller of the tokenizer's
`model_max_length` and `max_position_embeddings`. It checks neither against the position table, so a model with
learned positions can fail there; here the length is clamped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedway.errors import InvalidSetting

if TYPE_CHECKING:
    from embedway.models.json_files import JsonObject

COUNT_FROM_PADDING = (
    "camembert",
    "data2vec-text",
    "ibert",
    "layoutlmv3",
    "lilt",
    "longformer",
    "luke",
    "markuplm",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
)
"""Types whose positions start at `pad_token_id + 1`, so that the table holds that many tokens fewer."""

WITHOUT_POSITION_TABLE = ("bloom", "funnel", "longt5", "mpt", "mt5", "t5", "umt5", "xlnet")
"""Relative positions: no length is too long for them."""

ROTARY_KEYS = ("rope_theta", "rope_scaling", "rope_parameters", "rotary_emb_base", "rotary_emb_fraction", "rotary_dim")
ROTARY_TYPES = (
    *("eurobert", "falcon", "gemma", "gemma2", "gemma3_text", "gpt_neox", "gte", "jina_embeddings_v3", "llama"),
    *("mistral", "modernbert", "new", "nomic_bert", "phi", "phi3", "qwen2", "qwen3"),
)
COMPUTED_POSITIONS = ("rope", "rotary", "alibi")
"""Values of `position_embedding_type` for positions that are computed, not looked up."""

NO_LIMIT = 10**9
"""From here on a length is a sentinel: transformers writes 1e30 for "not known"."""


@dataclass(frozen=True, slots=True)
class Positions:
    """What a model's positions take."""

    capacity: int | None
    """Tokens, or None where any number fits"""
    is_table: bool
    """True: a longer item has no position to look up. False: a declaration may go beyond the capacity."""


def positions(config: JsonObject) -> Positions:
    """Read `config.json`. Raises UnsupportedCheckpoint."""
    model_type = config.text("model_type")
    declared = config.integer("max_position_embeddings", "n_positions")
    if model_type in WITHOUT_POSITION_TABLE or declared is None or declared == -1:
        return Positions(None, is_table=False)
    if has_computed_positions(config):
        return Positions(declared, is_table=False)
    if model_type not in COUNT_FROM_PADDING:
        return Positions(declared, is_table=True)
    # MPNet has the padding index 1 in its code, whatever pad_token_id says.
    pad = 1 if model_type == "mpnet" else config.integer("pad_token_id")
    return Positions(declared - (1 if pad is None else pad) - 1, is_table=True)


def has_computed_positions(config: JsonObject) -> bool:
    return (
        config.text("model_type") in ROTARY_TYPES
        or any(config.has(key) for key in ROTARY_KEYS)
        or config.values.get("position_embedding_type") in COMPUTED_POSITIONS
    )


def choose_max_length(
    config: JsonObject, declared: int | None, tokenizer_length: int | None, override: int | None
) -> int:
    """The length for a model, in tokens with special tokens.

    `declared` is the folder's `max_seq_length`, `tokenizer_length` the tokenizer's `model_max_length`, `override` the
    operator's. Raises InvalidSetting for an override that the model cannot take, UnsupportedCheckpoint where nothing
    names a length.
    """
    holds = positions(config)
    declared = declared if declared is not None and declared < NO_LIMIT else None
    if override is not None:
        return check_override(override, holds, declared)
    if declared is None:
        limits = [tokenizer_length, holds.capacity]
        declared = min((limit for limit in limits if limit is not None and limit < NO_LIMIT), default=None)
    if declared is None:
        config.fail("names no length, and neither does the tokenizer: give one with --max-length")
    return min(declared, holds.capacity) if holds.is_table and holds.capacity is not None else declared


def check_override(override: int, holds: Positions, declared: int | None) -> int:
    limit = holds.capacity
    if limit is not None and not holds.is_table:
        limit = max(limit, declared or 0)
    if limit is not None and override > limit:
        problem = f"{override} is more than this model holds, which is {limit} tokens"
        raise InvalidSetting(setting="--max-length", problem=problem)
    return override
