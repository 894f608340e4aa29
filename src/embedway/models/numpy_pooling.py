"""Pooling in numpy, for the native path: the same modes and rules as `pooling.py`, which has them for torch.

The native encoder pools by itself where there is one mode that it knows; the rarer ones are done here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from embedway.kernels.native import Floats
    from embedway.model_spec import Pooling


@dataclass(frozen=True, slots=True)
class CountedTokens:
    """The tokens of each sequence that the pooling reads, at least one."""

    states: Floats
    """[counted, size]: their hidden states, end to end"""
    starts: npt.NDArray[np.int64]
    """[n]: where each sequence's begin in `states`"""
    counts: npt.NDArray[np.int64]
    """[n]"""
    places: npt.NDArray[np.int64]
    """[counted]: each token's place in its whole sequence, from 0"""
    cls: Floats
    """[n, size]: the states of the tokens that `cls` reads"""


def pool(
    hidden: Floats,
    cu_seqlens: npt.NDArray[np.int32],
    pool_starts: npt.NDArray[np.int32],
    modes: tuple[Pooling, ...],
) -> Floats:
    """Pool hidden [total, size] by each mode; returns float32 [n, size · len(modes)].

    pool_starts counts the leading tokens that are left out. Where that would leave no token, `cls` reads the first
    token and the others the last one.
    """
    first, last = cu_seqlens[:-1].astype(np.int64), cu_seqlens[1:].astype(np.int64) - 1
    after_prompt = first + pool_starts
    counts = last + 1 - np.minimum(after_prompt, last)
    starts = np.cumsum(counts) - counts
    rows = np.arange(counts.sum()) + np.repeat(last + 1 - counts - starts, counts)
    tokens = CountedTokens(
        states=hidden if len(rows) == len(hidden) else hidden[rows],
        starts=starts,
        counts=counts,
        places=rows - np.repeat(first, counts),
        cls=hidden[np.where(after_prompt <= last, after_prompt, first)],
    )
    return np.concatenate([POOLINGS[mode](tokens) for mode in modes], axis=1, dtype=np.float32)


def cls(tokens: CountedTokens) -> Floats:
    return tokens.cls


def lasttoken(tokens: CountedTokens) -> Floats:
    return tokens.states[tokens.starts + tokens.counts - 1]


def max_over_tokens(tokens: CountedTokens) -> Floats:
    return np.maximum.reduceat(tokens.states, tokens.starts, axis=0)


def mean(tokens: CountedTokens) -> Floats:
    return np.add.reduceat(tokens.states, tokens.starts, axis=0) / tokens.counts[:, None].astype(np.float32)


def mean_sqrt_len_tokens(tokens: CountedTokens) -> Floats:
    roots = np.sqrt(tokens.counts[:, None].astype(np.float32))
    return np.add.reduceat(tokens.states, tokens.starts, axis=0) / roots


def weightedmean(tokens: CountedTokens) -> Floats:
    """Weights 1, 2, 3, … by place in the whole sequence: leaving out a prompt does not renumber what follows."""
    weights = (tokens.places + 1).astype(np.float32)[:, None]
    totals = np.add.reduceat(weights, tokens.starts, axis=0)
    return np.add.reduceat(tokens.states * weights, tokens.starts, axis=0) / totals


POOLINGS: dict[Pooling, Callable[[CountedTokens], Floats]] = {
    "cls": cls,
    "lasttoken": lasttoken,
    "max": max_over_tokens,
    "mean": mean,
    "mean_sqrt_len_tokens": mean_sqrt_len_tokens,
    "weightedmean": weightedmean,
}
