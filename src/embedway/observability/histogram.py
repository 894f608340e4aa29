"""A histogram in shared memory: to observe is to find a bucket and add twice."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from embedway.observability.families import FAMILIES

if TYPE_CHECKING:
    from embedway.observability.shared_counters import SharedCounters


class Histogram:
    """Counts values by the bucket they fall into; `exposition.render` adds the buckets up."""

    def __init__(self, counters: SharedCounters, name: str, labels: str = "") -> None:
        """`name` is a family's; `labels` are written as in a sample."""
        self._values = counters.values
        self._bounds = FAMILIES[name].buckets
        prefix = f"{labels}," if labels else ""
        buckets = [f'{name}_bucket{{{prefix}le="{bound}"}}' for bound in (*map(float, self._bounds), "+Inf")]
        *self._buckets, self._sum = counters.slots(*buckets, f"{name}_sum{{{labels}}}" if labels else f"{name}_sum")

    def observe(self, value: float) -> None:
        values, total = self._values, self._sum
        values[self._buckets[bisect_left(self._bounds, value)]] += 1.0
        values[total] += value
