"""What an engine counts itself, beside the API processes, and what these show of its newest status."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from embedway.observability.families import (
    BATCH_PREDICTION,
    BATCH_SECONDS,
    BATCH_SEQUENCES,
    BATCH_TOKENS,
    CACHE_HITS,
    COALESCED,
    ENGINE_INFO,
    ENGINE_READY,
    EXPIRED,
)
from embedway.observability.histogram import Histogram
from embedway.observability.shared_counters import SharedCounters

if TYPE_CHECKING:
    from embedway.engine.wire import Status

GAUGES: dict[str, Callable[[Status], float]] = {
    "embedway_engine_queued_requests": lambda status: status.queued_requests,
    "embedway_engine_queued_tokens": lambda status: status.queued_tokens,
    "embedway_engine_parked_requests": lambda status: status.parked_requests,
    "embedway_engine_adapters": lambda status: len(status.adapters),
    "embedway_engine_cached_vectors": lambda status: status.cached_vectors,
    "embedway_engine_cache_bytes": lambda status: status.cache_bytes,
    "embedway_engine_load_seconds": lambda status: status.load_seconds,
    "embedway_engine_target_batch_seconds": lambda status: status.target_batch_ms / 1000,
    "embedway_engine_batch_fixed_ms": lambda status: status.batch_fixed_ms,
    "embedway_engine_batch_ms_per_token": lambda status: status.batch_ms_per_token,
    "embedway_engine_batch_ms_per_square": lambda status: status.batch_ms_per_square,
    "embedway_engine_batch_time_error_median": lambda status: status.batch_time_error_median,
    "embedway_engine_batch_time_error_p90": lambda status: status.batch_time_error_p90,
}
TOTALS: dict[str, Callable[[Status], float]] = {
    CACHE_HITS: lambda status: status.cache_hits,
    COALESCED: lambda status: status.coalesced_sequences,
    EXPIRED: lambda status: status.expired_requests,
}
"""Since the engine's start: counters that it keeps for itself, too"""


class EngineMetrics:
    """One engine process's. `batch_done` belongs to the run loop, `publish` to the I/O thread."""

    def __init__(self, folder: Path | None = None, replica: int = 0) -> None:
        """`folder` is that of all processes; None: nobody reads them. `replica` is the engine's number."""
        counters, labels = SharedCounters(folder), f'replica="{replica}"'
        self._tokens, self._sequences = (Histogram(counters, name, labels) for name in (BATCH_TOKENS, BATCH_SEQUENCES))
        self._seconds, self._prediction = (
            Histogram(counters, name, labels) for name in (BATCH_SECONDS, BATCH_PREDICTION)
        )
        self._values = counters.values
        self._totals = counters.slots(*(f"{name}{{{labels}}}" for name in TOTALS))

    def batch_done(self, num_tokens: int, num_sequences: int, seconds: float) -> None:
        self._tokens.observe(num_tokens)
        self._sequences.observe(num_sequences)
        self._seconds.observe(seconds)

    def predicted(self, predicted_seconds: float, seconds: float) -> None:
        """A batch that ran as one, by a model of its time that has learned something."""
        if predicted_seconds > 0 and seconds > 0:
            self._prediction.observe(predicted_seconds / seconds)

    def publish(self, status: Status) -> None:
        """Write the totals down, where they outlive this process: with each status, so that they cost no request."""
        for slot, value_of in zip(self._totals, TOTALS.values(), strict=True):
            self._values[slot] = value_of(status)


class Engine(NamedTuple):
    """One of the server's engines, as an API process knows it."""

    number: int
    model: str
    """The first of its names"""
    status: Status | None
    """The newest; None: it is not ready"""


def engine_samples(engines: Iterable[Engine]) -> dict[str, float]:
    """The engines' gauges by their newest statuses, and whose engines they are."""
    samples: dict[str, float] = {}
    for number, model, status in engines:
        replica = f'replica="{number}"'
        samples[f'{ENGINE_INFO}{{{replica},model="{_escaped(model)}"}}'] = 1.0
        samples[f"{ENGINE_READY}{{{replica}}}"] = float(status is not None)
        if status is not None:
            samples.update({f"{name}{{{replica}}}": value_of(status) for name, value_of in GAUGES.items()})
    return samples


def _escaped(label: str) -> str:
    """As the text format wants it."""
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
