"""The weights of an encoder of BERT's kind: safetensors → EncoderWeights. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embedway.errors import UnsupportedCheckpoint
from embedway.kernels.native import EncoderWeights, LayerWeights
from embedway.models.weight_files import WeightFiles, require_weights

if TYPE_CHECKING:
    import numpy.typing as npt

    from embedway.kernels.native import Floats
    from embedway.model_spec import ModelSpec
    from embedway.models.bert_config import EncoderConfig

WORDS = "embeddings.word_embeddings.weight"
POSITIONS = "embeddings.position_embeddings.weight"
TOKEN_TYPES = "embeddings.token_type_embeddings.weight"  # noqa: S105 - no secret
NORM = "embeddings.LayerNorm"
BUCKETS = "encoder.relative_attention_bias.weight"
OLD_NAMES = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
"""As checkpoints made of TensorFlow's have them, bert-base-uncased among them."""

NUM_BUCKETS = 32
REACH = 128
"""MPNet's: the distance from which on all tokens fall into the last bucket."""


def read_weights(spec: ModelSpec, config: EncoderConfig) -> EncoderWeights:
    """Read all of an encoder's weights; float32 matrices stay in the mapped file.

    Raises UnsupportedCheckpoint where the files cannot be read, or lack a weight or have one of another shape.
    """
    files = WeightFiles(Path(spec.folder))
    names = file_names(files, config)
    shapes, expected = files.shapes(), expected_shapes(config)
    require_weights(
        spec.folder,
        missing=[name for name in expected if name not in names],
        misshapen=[name for name, key in names.items() if shapes[key] != expected[name]],
    )
    if config.shape.first_position + spec.max_length > config.num_positions:
        problem = f"its {config.num_positions} positions are too few for {spec.max_length} tokens"
        raise UnsupportedCheckpoint(folder=spec.folder, problem=problem)
    reader = Reader(files, names)
    return EncoderWeights(
        word_table=files.table(names[WORDS]),
        position_table=files.table(names[POSITIONS]),
        token_type=reader.matrix(TOKEN_TYPES)[0].copy() if config.num_token_types else None,
        norm_weight=reader.vector(f"{NORM}.weight"),
        norm_bias=reader.vector(f"{NORM}.bias"),
        layers=[reader.layer(config, i) for i in range(config.num_layers)],
        relative_bias=relative_bias(reader.matrix(BUCKETS)) if config.num_buckets else None,
    )


@dataclass(frozen=True, slots=True)
class Reader:
    """Weights by the family's names, whatever they are called in the files."""

    files: WeightFiles
    names: dict[str, str]

    def matrix(self, name: str) -> Floats:
        return self.files.matrix(self.names[name])

    def vector(self, name: str) -> Floats:
        return self.files.vector(self.names[name])

    def layer(self, config: EncoderConfig, i: int) -> LayerWeights:
        parts, base = config.family.layer, config.family.layer.layer.format(i)
        projections = [base + part for part in (parts.query, parts.key, parts.value)]
        return LayerWeights(
            qkv_weight=np.concatenate([self.matrix(f"{name}.weight") for name in projections]),
            qkv_bias=np.concatenate([self.matrix(f"{name}.bias") for name in projections]),
            attention_weight=self.matrix(f"{base}{parts.attention}.weight"),
            attention_bias=self.vector(f"{base}{parts.attention}.bias"),
            attention_norm_weight=self.vector(f"{base}{parts.attention_norm}.weight"),
            attention_norm_bias=self.vector(f"{base}{parts.attention_norm}.bias"),
            up_weight=self.matrix(f"{base}{parts.up}.weight"),
            up_bias=self.vector(f"{base}{parts.up}.bias"),
            down_weight=self.matrix(f"{base}{parts.down}.weight"),
            down_bias=self.vector(f"{base}{parts.down}.bias"),
            output_norm_weight=self.vector(f"{base}{parts.output_norm}.weight"),
            output_norm_bias=self.vector(f"{base}{parts.output_norm}.bias"),
        )


def file_names(files: WeightFiles, config: EncoderConfig) -> dict[str, str]:
    """The family's name → the name in the files, for every weight that is there."""
    prefix = config.family.prefix if config.family.prefix + WORDS in files else ""
    found = {}
    for name in expected_shapes(config):
        spellings = (name, *(name.replace(new, old) for new, old in OLD_NAMES.items() if new in name))
        key = next((prefix + spelling for spelling in spellings if prefix + spelling in files), None)
        if key is not None:
            found[name] = key
    return found


def expected_shapes(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """Every weight's name and shape, in the file's order: matrices are [out, in]."""
    hidden, wide = config.shape.hidden_size, config.shape.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        WORDS: (config.vocab_size, hidden),
        POSITIONS: (config.num_positions, hidden),
        f"{NORM}.weight": (hidden,),
        f"{NORM}.bias": (hidden,),
    }
    if config.num_token_types:
        shapes[TOKEN_TYPES] = (config.num_token_types, hidden)
    if config.num_buckets:
        shapes[BUCKETS] = (config.num_buckets, config.shape.num_heads)
    parts = config.family.layer
    for base in map(parts.layer.format, range(config.num_layers)):
        for part in (parts.query, parts.key, parts.value, parts.attention):
            shapes |= _linear(base + part, hidden, hidden)
        shapes |= _linear(base + parts.up, wide, hidden) | _linear(base + parts.down, hidden, wide)
        for part in (parts.attention_norm, parts.output_norm):
            shapes |= {f"{base}{part}.weight": (hidden,), f"{base}{part}.bias": (hidden,)}
    return shapes


def _linear(name: str, outs: int, ins: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outs, ins), f"{name}.bias": (outs,)}


def relative_bias(buckets: Floats) -> Floats:
    """MPNet's biases by bucket, [buckets, heads], as a table by distance: float32 [heads, 2 · REACH + 1].

    Column c is the distance j - i = c - REACH of a key j from its query i.
    """
    return np.ascontiguousarray(buckets[bucket_of(np.arange(-REACH, REACH + 1))].T)


def bucket_of(distance: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """T5's buckets (arXiv:1910.10683): one a distance up to 7, then ever wider ones; keys behind the query come later.

    In float32 like transformers' own, whose rounding decides at the borders.
    """
    half = NUM_BUCKETS // 2
    exact = half // 2
    steps = np.abs(distance)
    ratio = np.log(np.maximum(steps, 1).astype(np.float32) / np.float32(exact)) / np.float32(math.log(REACH / exact))
    wide = np.minimum(exact + (ratio * np.float32(half - exact)).astype(np.int64), half - 1)
    return np.where(steps < exact, steps, wide) + half * (distance > 0)
