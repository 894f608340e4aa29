"""Pooling: the hidden states of a packed batch become one vector a sequence, as sentence-transformers' Pooling module.

Every mode is a function of (hidden float32 [total, size], TokensToPool) to float32 [n, size]. A mean is the sum over
the sequence's own tokens, never a difference of running sums: a vector does not depend on the neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from embedway.models.device_copies import to_device

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from embedway.model_spec import Pooling
    from embedway.models.attention import PackedLayout


@dataclass(frozen=True, slots=True)
class TokensToPool:
    """Which tokens of each sequence count. A left-out prompt changes every mode but `lasttoken`."""

    first: torch.Tensor
    """int64 [n]: the row of the sequence's first token"""
    last: torch.Tensor
    """int64 [n]: the row of its last token"""
    after_prompt: torch.Tensor
    """int64 [n]: the row after the tokens that are left out; beyond `last` where all of them are"""
    counts: torch.Tensor
    """int64 [n]: how many tokens count, at least 1: the last one always does, since a mean needs a token"""
    num_counted: int
    """The sum of `counts`, for which the device is not asked"""

    def rows(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(sequence, row), both int64 [counted]: each token that counts, in order, with the sequence that it is of."""
        numbers = torch.arange(len(self.counts), device=self.counts.device)
        sequence = torch.repeat_interleave(numbers, self.counts, output_size=self.num_counted)
        shift = self.last + 1 - torch.cumsum(self.counts, 0)  # a sequence's tokens count up to its last one
        return sequence, torch.arange(len(sequence), device=sequence.device) + shift[sequence]


def pool(
    hidden: torch.Tensor,
    layout: PackedLayout,
    pool_starts: npt.NDArray[np.int32] | None,
    modes: tuple[Pooling, ...],
) -> torch.Tensor:
    """Pool hidden [total, size] (any float dtype) by each mode; returns float32 [n, size · len(modes)].

    pool_starts (int32 [n]) counts the leading tokens that are left out; None where that is none anywhere. Where that
    would leave no token, `cls` reads the first token and the others the last one; sentence-transformers gives zeros or
    -inf there, which is no vector.
    """
    ends = layout.cu_seqlens.long()
    first, last = ends[:-1], ends[1:] - 1
    if pool_starts is None:
        tokens = TokensToPool(first, last, first, counts=layout.lengths, num_counted=layout.num_tokens)
    else:
        after_prompt = first + to_device(pool_starts, hidden.device)
        counts = last + 1 - torch.minimum(after_prompt, last)
        lengths = np.repeat([run.length for run in layout.runs], [run.count for run in layout.runs])
        num_counted = int((lengths - np.minimum(pool_starts, lengths - 1)).sum())
        tokens = TokensToPool(first, last, after_prompt, counts, num_counted)
    states = hidden.float()
    vectors = [POOLINGS[mode](states, tokens) for mode in modes]
    return vectors[0] if len(vectors) == 1 else torch.cat(vectors, dim=1)


def cls(hidden: torch.Tensor, tokens: TokensToPool) -> torch.Tensor:
    rows = torch.where(tokens.after_prompt <= tokens.last, tokens.after_prompt, tokens.first)
    return hidden[rows.clamp_max(len(hidden) - 1)]  # a CUDA graph's empty sequences begin behind the last row


def lasttoken(hidden: torch.Tensor, tokens: TokensToPool) -> torch.Tensor:
    return hidden[tokens.last]


def mean(hidden: torch.Tensor, tokens: TokensToPool) -> torch.Tensor:
    return _sums(hidden, tokens) / tokens.counts[:, None]


def mean_sqrt_len_tokens(hidden: torch.Tensor, tokens: TokensToPool) -> torch.Tensor:
    return _sums(hidden, tokens) / tokens.counts[:, None].sqrt()


def weightedmean(hidden: torch.Tensor, tokens: TokensToPool) -> torch.Tensor:
    """Weights 1, 2, 3, … by position in the whole sequence: leaving out a prompt does not renumber what follows."""
    sequence, row = tokens.rows()
    weights = (row - tokens.first[sequence] + 1).float()
    total = hidden.new_zeros(len(tokens.first)).index_add_(0, sequence, weights)
    return _sums(hidden[row] * weights[:, None], tokens, sequence) / total[:, None]


def max_over_tokens(hidden: torch.Tensor, tokens: TokensToPool) -> torch.Tensor:
    sequence, row = tokens.rows()
    lowest = hidden.new_full((len(tokens.first), hidden.shape[1]), -torch.inf)
    return lowest.scatter_reduce_(0, sequence[:, None].expand(-1, hidden.shape[1]), hidden[row], reduce="amax")


POOLINGS: dict[Pooling, Callable[[torch.Tensor, TokensToPool], torch.Tensor]] = {
    "cls": cls,
    "lasttoken": lasttoken,
    "max": max_over_tokens,
    "mean": mean,
    "mean_sqrt_len_tokens": mean_sqrt_len_tokens,
    "weightedmean": weightedmean,
}


def _sums(hidden: torch.Tensor, tokens: TokensToPool, sequence: torch.Tensor | None = None) -> torch.Tensor:
    """Sums over the tokens that count; `hidden` holds only those where their `sequence` is given."""
    if sequence is None and not (hidden.is_cuda and tokens.num_counted == len(hidden)):
        sequence, row = tokens.rows()
        hidden = hidden if len(row) == len(hidden) else hidden[row]
    if hidden.is_cuda:  # always in the same order, where index_add_ would add in any
        return torch.ops.aten.segment_reduce(hidden, "sum", lengths=tokens.counts, unsafe=True)
    assert sequence is not None
    # index_add_ adds row by row: 10 times as fast on CPU as segment_reduce
    return hidden.new_zeros(len(tokens.first), hidden.shape[1]).index_add_(0, sequence, hidden)
