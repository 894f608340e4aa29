"""Latencies as bars: classes that grow by the same factor, since latencies spread over orders of magnitude."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

EIGHTHS = " ▏▎▍▌▋▊▉"
FULL = "█"
LEAST_SPREAD = 1.2
"""The last edge is at least so many times the first"""


def classes(latencies: npt.NDArray[np.float64], count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """How many of the latencies (at least one) lie in each class, [count], and the classes' edges, [count + 1]."""
    first = max(float(latencies.min()), 1e-6)
    last = max(float(latencies.max()), first * LEAST_SPREAD)
    edges = np.geomspace(first, last, count + 1)
    edges[0], edges[-1] = min(first, float(latencies.min())), last  # rounding must leave none out
    return np.histogram(latencies, edges)[0].astype(np.int64), edges


def bar(share: float, width: int) -> str:
    """A bar of that share (0 to 1) of `width` characters, to an eighth of one; never empty where there is something."""
    eighths = max(round(share * width * 8), int(share > 0))
    return (FULL * (eighths // 8) + EIGHTHS[eighths % 8]).rstrip()
