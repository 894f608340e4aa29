"""The seam between the engine and a model: a packed batch goes in, one float32 vector a sequence comes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Sequences laid end to end, without padding.

    Sequence i is `token_ids[cu_seqlens[i]:cu_seqlens[i + 1]]`; every sequence has at least one token.
    """

    token_ids: npt.NDArray[np.int32]
    """int32 [total]"""
    cu_seqlens: npt.NDArray[np.int32]
    """int32 [n + 1], starting at 0 and ending at total"""
    pool_starts: npt.NDArray[np.int32]
    """int32 [n]: how many leading tokens of each sequence the pooling leaves out (a prompt's); nearly always 0"""

    @property
    def num_sequences(self) -> int:
        return len(self.cu_seqlens) - 1

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)


class EmbeddingModel(Protocol):
    """A loaded model. Not thread-safe: one caller at a time."""

    dtype: str
    """The weights' type: `float32`, `bfloat16` or `float16`."""
    device: str
    dimension: int
    facts: dict[str, str]
    """What else the operator may want to know of it, in words: name → value, shown in the banner and /server_info."""

    def embed(self, batch: PackedBatch) -> npt.NDArray[np.float32]:
        """Return float32 [n, dimension]: pooled, through the Dense modules, not normalised."""
        ...
