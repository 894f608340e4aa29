"""Prometheus metrics of the API processes.

With PROMETHEUS_MULTIPROC_DIR set (the supervisor does), every process writes into one folder and any of them can answer
`/metrics` for all.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

if TYPE_CHECKING:
    from embedway.engine.client import EmbedResult
    from embedway.engine.wire import Status
    from embedway.packed_sequences import PackedSequences

LATENCY_BUCKETS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64)


def forget_process(folder: Path, pid: int) -> None:
    """Take a dead API process out of the gauges that add up over living ones."""
    mark_process_dead(pid, str(folder))


class Metrics:
    """One process's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "embedway_requests", "HTTP requests by route and status.", ["route", "status"], registry=registry
        )
        self._latency = Histogram(
            "embedway_request_seconds",
            "Seconds from the first byte of a request to the last one of its answer.",
            ["route"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self._in_progress = Gauge(
            "embedway_requests_in_progress", "HTTP requests now.", registry=registry, multiprocess_mode="livesum"
        )
        self._items = Counter("embedway_items", "Items embedded.", registry=registry)
        self._tokens = Counter("embedway_prompt_tokens", "Tokens embedded.", registry=registry)
        self._queue = Histogram(
            "embedway_queue_seconds",
            "Seconds that embedding requests wait at the engine.",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self._compute = Histogram(
            "embedway_compute_seconds",
            "Seconds from a request's first batch to the end of its last.",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self._engine_gauges = {
            name: Gauge(f"embedway_engine_{name}", text, ["replica"], registry=registry, multiprocess_mode="mostrecent")
            for name, text in (
                ("ready", "1 where the engine is ready."),
                ("queued_requests", "Requests that wait in the engine."),
                ("queued_tokens", "Tokens that wait in the engine."),
                ("batches_run", "Batches since the engine started."),
                ("tokens_run", "Tokens since the engine started."),
                ("compute_seconds_run", "Seconds in the model since the engine started."),
                ("batch_fixed_ms", "Predicted milliseconds of a batch, whatever is in it."),
                ("batch_ms_per_token", "Predicted milliseconds that a token adds to a batch."),
                ("batch_ms_per_square", "Predicted milliseconds per square of a sequence's length."),
                ("batch_time_error_median", "Median of |predicted - real| / real of the newest batches."),
                ("batch_time_error_p90", "90th percentile of the same."),
            )
        }

    @contextmanager
    def in_progress(self) -> Generator[None]:
        self._in_progress.inc()
        try:
            yield
        finally:
            self._in_progress.dec()

    def request_done(self, route: str, status: int, seconds: float) -> None:
        self._requests.labels(route, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def embedded(self, sequences: PackedSequences, result: EmbedResult) -> None:
        self._items.inc(sequences.num_sequences)
        self._tokens.inc(sequences.num_tokens)
        self._queue.observe(result.queue_seconds)
        self._compute.observe(result.compute_seconds)

    def render(self, engines: Sequence[Status | None]) -> bytes:
        """The text format of Prometheus, with the engines' newest statuses."""
        for replica, status in enumerate(engines):
            self._set_engine(str(replica), status)
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self._registry)
        merged = CollectorRegistry()
        MultiProcessCollector(merged)
        return generate_latest(merged)

    def _set_engine(self, replica: str, status: Status | None) -> None:
        self._engine_gauges["ready"].labels(replica).set(int(status is not None))
        if status is not None:
            values = {
                "queued_requests": status.queued_requests,
                "queued_tokens": status.queued_tokens,
                "batches_run": status.batches,
                "tokens_run": status.tokens,
                "compute_seconds_run": status.compute_seconds,
                "batch_fixed_ms": status.batch_fixed_ms,
                "batch_ms_per_token": status.batch_ms_per_token,
                "batch_ms_per_square": status.batch_ms_per_square,
                "batch_time_error_median": status.batch_time_error_median,
                "batch_time_error_p90": status.batch_time_error_p90,
            }
            for name, value in values.items():
                self._engine_gauges[name].labels(replica).set(value)
