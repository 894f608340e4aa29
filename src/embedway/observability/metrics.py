"""Prometheus metrics of the API processes, and of the engines as these know them.

All processes count into one folder, so any of them can answer `/metrics` for all. A counter's name is that of its
sample in Prometheus' text format, labels included: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from embedway.observability.shared_counters import SharedCounters, clear

if TYPE_CHECKING:
    from embedway.engine.client import EmbedResult
    from embedway.engine.wire import Status
    from embedway.packed_sequences import PackedSequences

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LATENCY_BUCKETS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64)

REQUESTS, LATENCY = "embedway_requests_total", "embedway_request_seconds"
IN_PROGRESS = "embedway_requests_in_progress"
ITEMS, TOKENS = "embedway_items_total", "embedway_prompt_tokens_total"
QUEUE, COMPUTE = "embedway_queue_seconds", "embedway_compute_seconds"

ENGINE_READY = "embedway_engine_ready"
ENGINE_GAUGES: dict[str, tuple[Callable[[Status], float], str]] = {
    "queued_requests": (lambda status: status.queued_requests, "Requests that wait in the engine."),
    "queued_tokens": (lambda status: status.queued_tokens, "Tokens that wait in the engine."),
    "batches_run": (lambda status: status.batches, "Batches since the engine started."),
    "tokens_run": (lambda status: status.tokens, "Tokens since the engine started."),
    "compute_seconds_run": (lambda status: status.compute_seconds, "Seconds in the model since the engine started."),
    "batch_fixed_ms": (lambda status: status.batch_fixed_ms, "Predicted milliseconds of a batch, whatever is in it."),
    "batch_ms_per_token": (
        lambda status: status.batch_ms_per_token,
        "Predicted milliseconds that a token adds to a batch.",
    ),
    "batch_ms_per_square": (
        lambda status: status.batch_ms_per_square,
        "Predicted milliseconds per square of a sequence's length.",
    ),
    "batch_time_error_median": (
        lambda status: status.batch_time_error_median,
        "Median of |predicted - real| / real of the newest batches.",
    ),
    "batch_time_error_p90": (lambda status: status.batch_time_error_p90, "90th percentile of the same."),
}
"""What follows `embedway_engine_` in the name → where it comes from, and help"""

FAMILIES = {
    REQUESTS: ("counter", "HTTP requests by route and status."),
    LATENCY: ("histogram", "Seconds from the first byte of a request to the last one of its answer."),
    IN_PROGRESS: ("gauge", "HTTP requests now."),
    ITEMS: ("counter", "Items embedded."),
    TOKENS: ("counter", "Tokens embedded."),
    QUEUE: ("histogram", "Seconds that embedding requests wait at the engine."),
    COMPUTE: ("histogram", "Seconds from a request's first batch to the end of its last."),
    ENGINE_READY: ("gauge", "1 where the engine is ready."),
    **{f"embedway_engine_{name}": ("gauge", text) for name, (_, text) in ENGINE_GAUGES.items()},
}
"""Name → type and help, in the order of the answer"""


def forget_process(folder: Path, pid: int) -> None:
    """Take the requests of a dead API process out of those in progress."""
    clear(folder, pid, IN_PROGRESS)


class Histogram:
    """Counts values by the bucket they fall into; `render` adds the buckets up."""

    def __init__(self, counters: SharedCounters, name: str, labels: str = "") -> None:
        self._values = counters.values
        prefix = f"{labels}," if labels else ""
        buckets = [f'{name}_bucket{{{prefix}le="{bound}"}}' for bound in (*map(float, LATENCY_BUCKETS), "+Inf")]
        *self._buckets, self._sum = counters.slots(*buckets, f"{name}_sum{{{labels}}}" if labels else f"{name}_sum")

    def observe(self, value: float) -> None:
        self._values[self._buckets[bisect_left(LATENCY_BUCKETS, value)]] += 1
        self._values[self._sum] += value


class Metrics:
    """One process's metrics."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder` is that of all API processes; None: this is the only one."""
        self._counters = counters = SharedCounters(folder)
        self._values = counters.values
        self._in_progress, self._items, self._tokens = counters.slots(IN_PROGRESS, ITEMS, TOKENS)
        self._queue, self._compute = Histogram(counters, QUEUE), Histogram(counters, COMPUTE)
        self._latency: dict[str, Histogram] = {}
        """By route"""
        self._requests: dict[tuple[str, int], int] = {}
        """Route and status → slot"""

    @contextmanager
    def in_progress(self) -> Generator[None]:
        self._values[self._in_progress] += 1
        try:
            yield
        finally:
            self._values[self._in_progress] -= 1

    def request_done(self, route: str, status: int, seconds: float) -> None:
        slot = self._requests.get((route, status))
        if slot is None:
            [slot] = self._counters.slots(f'{REQUESTS}{{route="{route}",status="{status}"}}')
            self._requests[route, status] = slot
        if route not in self._latency:
            self._latency[route] = Histogram(self._counters, LATENCY, f'route="{route}"')
        self._values[slot] += 1
        self._latency[route].observe(seconds)

    def embedded(self, sequences: PackedSequences, result: EmbedResult) -> None:
        self._values[self._items] += sequences.num_sequences
        self._values[self._tokens] += sequences.num_tokens
        self._queue.observe(result.queue_seconds)
        self._compute.observe(result.compute_seconds)

    def render(self, engines: Sequence[Status | None]) -> bytes:
        """The text format, with the engines' newest statuses."""
        samples = {**self._counters.totals(), **_engine_samples(engines)}
        lines: list[str] = []
        for family, (kind, text) in FAMILIES.items():
            own = {name: value for name, value in samples.items() if _family(name) == family}
            lines += [f"# HELP {family} {text}", f"# TYPE {family} {kind}"]
            lines += _histogram_lines(own) if kind == "histogram" else [f"{name} {own[name]}" for name in own]
        return "\n".join([*lines, ""]).encode()


def _engine_samples(engines: Sequence[Status | None]) -> dict[str, float]:
    samples: dict[str, float] = {}
    for replica, status in enumerate(engines):
        label = f'{{replica="{replica}"}}'
        samples[f"{ENGINE_READY}{label}"] = float(status is not None)
        if status is not None:
            for name, (value_of, _) in ENGINE_GAUGES.items():
                samples[f"embedway_engine_{name}{label}"] = value_of(status)
    return samples


def _family(sample: str) -> str:
    name = sample.partition("{")[0]
    return name if name in FAMILIES else name.removesuffix("_bucket").removesuffix("_sum")


def _histogram_lines(samples: Mapping[str, float]) -> Iterable[str]:
    """Buckets in the order of their bounds, added up, and the count, which is the last of them."""
    total = 0.0
    for name, value in samples.items():
        if name.partition("{")[0].endswith("_sum"):
            yield f"{name} {value}"
            yield f"{name.replace('_sum', '_count', 1)} {total}"
            total = 0.0
        else:
            total += value
            yield f"{name} {total}"
