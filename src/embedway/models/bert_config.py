"""Which checkpoints are encoders of BERT's kind, and their sizes: `config.json` → EncoderConfig. No torch.

What such an encoder computes is said once, in `reference_encoder.py`. A checkpoint whose configuration asks for more
is not one of them, and is left to transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from embedway.kernels.native import LARGEST_HEAD, EncoderShape
from embedway.models.json_files import JsonObject, read_object

if TYPE_CHECKING:
    from embedway.kernels.native import Activation
    from embedway.model_spec import ModelSpec

MPNET_FIRST_POSITION = 2
"""MPNet numbers positions from its own padding index, 1, whatever the configuration says."""
ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    # five spellings of one formula in transformers' ACT2FN; `quick_gelu` is another
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "relu": "relu",
}


@dataclass(frozen=True, slots=True)
class LayerNames:
    """Where the parts of a layer lie; each has a `.weight` and a `.bias`."""

    layer: str
    query: str
    key: str
    value: str
    attention: str
    attention_norm: str
    up: str
    down: str
    output_norm: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How one `model_type` names what all of them have."""

    prefix: str
    """What a checkpoint with a head puts before the encoder's names"""
    layer: LayerNames
    has_token_types: bool = True
    counts_from_padding: bool = False
    """Positions start behind the padding token's id"""
    hidden_size: str = "hidden_size"
    num_heads: str = "num_attention_heads"
    intermediate_size: str = "intermediate_size"
    num_layers: str = "num_hidden_layers"
    activation: str = "hidden_act"
    layer_norm_eps: str | None = "layer_norm_eps"
    """None: always DEFAULT_EPS"""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """What `config.json` declares."""

    family: Family
    shape: EncoderShape
    num_layers: int
    vocab_size: int
    num_positions: int
    num_token_types: int
    """0 where the family has none"""
    num_buckets: int
    """Of MPNet's relative positions; 0 in other families"""


DEFAULT_EPS = 1e-12
BERT_LAYER = LayerNames(
    layer="encoder.layer.{}.",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attention="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    output_norm="output.LayerNorm",
)
MPNET_LAYER = LayerNames(
    layer="encoder.layer.{}.",
    query="attention.attn.q",
    key="attention.attn.k",
    value="attention.attn.v",
    attention="attention.attn.o",
    attention_norm="attention.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    output_norm="output.LayerNorm",
)
DISTILBERT_LAYER = LayerNames(
    layer="transformer.layer.{}.",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    attention="attention.out_lin",
    attention_norm="sa_layer_norm",
    up="ffn.lin1",
    down="ffn.lin2",
    output_norm="output_layer_norm",
)
ROBERTA = Family(prefix="roberta.", layer=BERT_LAYER, counts_from_padding=True)
FAMILIES: dict[str, Family] = {
    "bert": Family(prefix="bert.", layer=BERT_LAYER),
    "electra": Family(prefix="electra.", layer=BERT_LAYER),
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "camembert": ROBERTA,
    "mpnet": Family(prefix="mpnet.", layer=MPNET_LAYER, has_token_types=False),
    "distilbert": Family(
        prefix="distilbert.",
        layer=DISTILBERT_LAYER,
        has_token_types=False,
        hidden_size="dim",
        num_heads="n_heads",
        intermediate_size="hidden_dim",
        num_layers="n_layers",
        activation="activation",
        layer_norm_eps=None,
    ),
}
"""By `model_type`. The defaults of missing keys are those of transformers' configuration classes."""


def read_encoder_config(spec: ModelSpec) -> EncoderConfig | None:
    """What the checkpoint's encoder is, or None where it is not of BERT's kind. Raises UnsupportedCheckpoint."""
    family = FAMILIES.get(spec.model_type)
    config = read_object(Path(spec.folder), "config.json") if family else None
    if family is None or config is None or not is_plain(config, spec):
        return None
    hidden_size = config.positive(family.hidden_size) or 768
    num_heads = config.positive(family.num_heads) or 12
    activation = ACTIVATIONS.get(config.text(family.activation) or "gelu")
    if activation is None or hidden_size % num_heads or hidden_size // num_heads > LARGEST_HEAD:
        return None
    return EncoderConfig(
        family=family,
        shape=EncoderShape(
            hidden_size=hidden_size,
            num_heads=num_heads,
            intermediate_size=config.positive(family.intermediate_size) or 3072,
            layer_norm_eps=config.number(family.layer_norm_eps, DEFAULT_EPS) if family.layer_norm_eps else DEFAULT_EPS,
            activation=activation,
            first_position=first_position(spec, family, config),
        ),
        num_layers=config.positive(family.num_layers) or (6 if spec.model_type == "distilbert" else 12),
        vocab_size=spec.vocab_size,
        num_positions=config.positive("max_position_embeddings") or 512,
        num_token_types=(config.positive("type_vocab_size") or 2) if family.has_token_types else 0,
        num_buckets=(config.positive("relative_attention_num_buckets") or 32) if spec.model_type == "mpnet" else 0,
    )


def is_plain(config: JsonObject, spec: ModelSpec) -> bool:
    """Whether the checkpoint asks for nothing that its family's plain encoder lacks.

    Raises UnsupportedCheckpoint for positions that transformers 5 ignores without a word.
    """
    if spec.trust_remote_code and config.has("auto_map"):
        return False  # whatever its model_type says, the code is its own
    kind = config.text("position_embedding_type") or "absolute"
    if kind != "absolute":
        config.fail(f"has the position_embedding_type {kind!r}, which transformers 5 no longer computes")
    if spec.model_type == "electra" and (config.positive("embedding_size") or 128) != spec.hidden_size:
        return False  # a projection lies between its tables and its layers
    asks = ("is_decoder", "add_cross_attention", "quantization_config", "pruned_heads")
    return spec.bidirectional is not False and not any(config.values.get(key) for key in asks)


def first_position(spec: ModelSpec, family: Family, config: JsonObject) -> int:
    if spec.model_type == "mpnet":
        return MPNET_FIRST_POSITION
    if not family.counts_from_padding:
        return 0
    padding = config.integer("pad_token_id")
    return (1 if padding is None else padding) + 1
