"""PackedSequences: a request's items as the model reads them, end to end. Made by `inputs`, carried by `engine`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class PackedSequences:
    """A request's sequences, end to end."""

    token_ids: npt.NDArray[np.int32]
    """int32 [total]"""
    cu_seqlens: npt.NDArray[np.int32]
    """int32 [n + 1]"""
    pool_start: int = 0
    """Leading tokens of every sequence that the pooling leaves out (a prompt's)"""

    @classmethod
    def of(cls, sequences: Sequence[npt.NDArray[np.int32]], *, pool_start: int = 0) -> PackedSequences:
        cu_seqlens = np.fromiter(accumulate(map(len, sequences), initial=0), dtype=np.int32, count=len(sequences) + 1)
        token_ids = sequences[0] if len(sequences) == 1 else np.concatenate(sequences)
        return cls(np.ascontiguousarray(token_ids, dtype=np.int32), cu_seqlens, pool_start)

    @property
    def num_sequences(self) -> int:
        return len(self.cu_seqlens) - 1

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """int32 [n], in tokens"""
        return np.diff(self.cu_seqlens)
