"""PackedSequences: a request's items as the model reads them, end to end. Made by `inputs`, carried by `engine`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from embedway.adapter_ref import AdapterRef
from embedway.visual import Visual, moved


@dataclass(frozen=True, slots=True)
class PackedSequences:
    """A request's sequences, end to end."""

    token_ids: npt.NDArray[np.int32]
    """int32 [total]"""
    cu_seqlens: npt.NDArray[np.int32]
    """int32 [n + 1]"""
    pool_start: int = 0
    """Leading tokens of every sequence that the pooling leaves out (a prompt's)"""
    adapters: tuple[AdapterRef, ...] = ()
    """The LoRA adapters that the request asks for"""
    adapter_indices: npt.NDArray[np.int32] | None = None
    """int32 [n]: each sequence's place in `adapters`, -1 for the base model; None where `adapters` is empty"""
    visuals: Mapping[int, tuple[Visual, ...]] = field(default_factory=dict)
    """Sequence → its images and videos, in the order in which their positions stand in it; text alone is not listed"""

    @classmethod
    def of(cls, sequences: Sequence[npt.NDArray[np.int32]], *, pool_start: int = 0) -> PackedSequences:
        if len(sequences) == 1:  # a query: in half the time
            cu_seqlens, token_ids = np.array((0, len(sequences[0])), np.int32), sequences[0]
        else:
            cu_seqlens = np.fromiter(accumulate(map(len, sequences), initial=0), np.int32, len(sequences) + 1)
            token_ids = np.concatenate(sequences)
        return cls(np.ascontiguousarray(token_ids, dtype=np.int32), cu_seqlens, pool_start)

    def part(self, start: int, stop: int) -> PackedSequences:
        """Sequences `start … stop - 1`."""
        first, last = self.cu_seqlens[start], self.cu_seqlens[stop]
        return PackedSequences(
            token_ids=self.token_ids[first:last],
            cu_seqlens=self.cu_seqlens[start : stop + 1] - first,
            pool_start=self.pool_start,
            adapters=self.adapters,
            adapter_indices=None if self.adapter_indices is None else self.adapter_indices[start:stop],
            visuals=dict(moved(self.visuals, start, stop, 0)),
        )

    @property
    def num_sequences(self) -> int:
        return len(self.cu_seqlens) - 1

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_bytes(self) -> int:
        """Of token ids and pixels."""
        return self.token_ids.nbytes + sum(visual.num_bytes for own in self.visuals.values() for visual in own)

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """int32 [n], in tokens"""
        return np.diff(self.cu_seqlens)
