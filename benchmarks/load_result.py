"""What one round of a workload gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoadResult:
    seconds: float
    """From the first request to the last answer"""
    latencies: Sequence[float]
    """Seconds of each answered request, as they were answered: those of the first requests of the load"""
    client_cpu_seconds: float = 0.0
    """Of the client, between the two"""
