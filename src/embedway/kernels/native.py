"""The native library: found, loaded and called through ctypes. Arrays are numpy; torch is never imported.

`load_library` is None where the package was installed without a compiler; what can be run is a question to it
(`gemm_types`), never a guess. Sources and how they work: `README.md` beside this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

GemmType = Literal["float32", "bfloat16", "float16"]
Activation = Literal["gelu", "gelu_tanh", "relu"]
PoolingMode = Literal["mean", "cls", "max", "lasttoken"]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderShape:
    """The sizes of a post-norm encoder of BERT's kind. The head size is hidden_size / num_heads, at most 128."""

    hidden_size: int
    num_heads: int
    intermediate_size: int
    layer_norm_eps: float
    activation: Activation
    first_position: int = 0
    """Row of the position table that a sequence's first token takes (RoBERTa: padding_idx + 1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWeights:
    """One layer, as checkpoints hold it: weights are [out, in], float32 and contiguous."""

    qkv_weight: Floats
    """[3 · hidden, hidden]: query, key, value"""
    qkv_bias: Floats
    attention_weight: Floats
    """[hidden, hidden]: the projection after the heads"""
    attention_bias: Floats
    attention_norm_weight: Floats
    attention_norm_bias: Floats
    up_weight: Floats
    """[intermediate, hidden]"""
    up_bias: Floats
    down_weight: Floats
    """[hidden, intermediate]"""
    down_bias: Floats
    output_norm_weight: Floats
    output_norm_bias: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderWeights:
    """A whole encoder. The tables are read in place and may be memory-mapped; the layers are packed and can be freed."""

    word_table: Floats
    """[vocabulary, hidden]"""
    position_table: Floats
    """[positions, hidden]"""
    token_type: Floats | None
    """[hidden]: the row of token type 0; None where the model has no types"""
    norm_weight: Floats
    norm_bias: Floats
    layers: list[LayerWeights]
    relative_bias: Floats | None = None
    """[heads, 2 · reach + 1]: added to the scores of key j for query i at column clip(j - i, -reach, reach) + reach
    (MPNet, in every layer alike)"""


class NativeEncoder:
    """An encoder whose weights are packed for this machine's instructions. Not thread-safe: one caller at a time.

    Raises ValueError for a shape that the library does not compute, or a GEMM type that this machine lacks.
    """

    def __init__(
        self, shape: EncoderShape, weights: EncoderWeights, *, gemm_type: GemmType, threads: int
    ) -> None: ...

    def embed(
        self,
        token_ids: npt.NDArray[np.int32],
        cu_seqlens: npt.NDArray[np.int32],
        pool_starts: npt.NDArray[np.int32],
        pooling: PoolingMode,
    ) -> Floats:
        """Return float32 [n, hidden], pooled, not normalised. Ids and positions must be inside their tables."""
        raise NotImplementedError

    def hidden_states(self, token_ids: npt.NDArray[np.int32], cu_seqlens: npt.NDArray[np.int32]) -> Floats:
        """Return float32 [total, hidden]: every token's last state."""
        raise NotImplementedError


def gemm_types() -> tuple[GemmType, ...]:
    """The types in which this machine can run the encoder, from the library's own answer; empty without a library."""
    return ()
