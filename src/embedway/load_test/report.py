"""What was measured, for people and for programs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from embedway.load_test.histogram import bar, classes
from embedway.load_test.measurement import Measurement, best

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedway.load_test.sweep import Plan, Sweep

NUM_CLASSES, BAR_WIDTH, SMALL_WIDTH = 12, 40, 12
BUSY_CLIENT = 0.9
"""Of a core: from here on the figures are as much the client's as the server's."""
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "max": 100.0}


def print_sweep(console: Console, plan: Plan, sweep: Sweep) -> None:
    per_request = "a text" if plan.items_per_request == 1 else f"{plan.items_per_request} texts"
    what = f"{plan.target.url}, {sweep.model}: {sweep.dimension} dimensions, {per_request} a request"
    console.print(Text(what, style="bold"), soft_wrap=True)
    console.print(table(sweep.measurements, plan.items_per_request))
    peak = best(sweep.measurements)
    if peak.answered:
        console.print(Text(f"Latencies with {peak.load}:"))
        print_histogram(console, peak)
    for note in notes(sweep):
        console.print(Text(note), soft_wrap=True)


def table(measurements: Sequence[Measurement], items_per_request: int) -> Table:
    made = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    made.add_column("load")
    with_texts = items_per_request > 1
    most = best(measurements).requests_per_second or 1.0
    for name in ("requests/s", *(["texts/s"] if with_texts else []), "tokens/s", *(f"{p} ms" for p in PERCENTILES)):
        made.add_column(name, justify="right")
    made.add_column("without vectors")
    made.add_column("throughput")
    for one in measurements:
        texts = [number(one.requests_per_second * items_per_request)] if with_texts else []
        latencies = [milliseconds(one.percentile(percent)) for percent in PERCENTILES.values()]
        failures = ", ".join(f"{count} × {cause}" for cause, count in one.failures.items())
        tokens = number(one.tokens_per_second)
        throughput = Text(bar(one.requests_per_second / most, SMALL_WIDTH), style="cyan")
        speed = number(one.requests_per_second)
        made.add_row(str(one.load), speed, *texts, tokens, *latencies, failures or "none", throughput)
    return made


def print_histogram(console: Console, measurement: Measurement) -> None:
    counts, edges = classes(measurement.latencies, NUM_CLASSES)
    for count, low, high in zip(counts.tolist(), edges[:-1], edges[1:], strict=True):
        span = f"{milliseconds(low):>7} – {milliseconds(high):<7} ms"
        line = Text.assemble((f"  {span}  ", "dim"), (bar(count / counts.max(), BAR_WIDTH), "cyan"), f" {count:,}")
        console.print(line)


def notes(sweep: Sweep) -> list[str]:
    said, peak = [], best(sweep.measurements)
    if sweep.is_saturated and peak.answered:
        said.append(f"Saturated: more than {number(peak.requests_per_second)} requests/s were not reached.")
    if refused := sum(one.refused for one in sweep.measurements):
        said.append(f"The server refused {refused:,} requests with 429: it had too much to do.")
    if any(one.client_share > BUSY_CLIENT for one in sweep.measurements):
        said.append("The client used most of a core, so the server may do more than was measured.")
    return said


def as_json(plan: Plan, sweep: Sweep) -> dict[str, Any]:
    """Times are in seconds."""
    return {
        "url": plan.target.url,
        "model": sweep.model,
        "dimension": sweep.dimension,
        "items_per_request": plan.items_per_request,
        "saturated": sweep.is_saturated,
        "loads": [measurement_as_json(one) for one in sweep.measurements],
    }


def measurement_as_json(one: Measurement) -> dict[str, Any]:
    counts, edges = classes(one.latencies, NUM_CLASSES) if one.answered else ((), ())
    return {
        "concurrency": one.load.concurrency,
        "rate": one.load.rate,
        "seconds": one.seconds,
        "answered": one.answered,
        "refused": one.refused,
        "failed": one.failed,
        "without_vectors": dict(one.failures),
        "requests_per_second": one.requests_per_second,
        "tokens_per_second": one.tokens_per_second,
        "latency": {name: one.percentile(percent) for name, percent in PERCENTILES.items()},
        "histogram": {"edges": [float(edge) for edge in edges], "counts": [int(count) for count in counts]},
        "client_share": one.client_share,
    }


def exit_status(sweep: Sweep) -> int:
    """1 where requests failed; refused ones have not, unless all were."""
    has_failed = any(one.failed for one in sweep.measurements)
    return int(has_failed or not any(one.answered for one in sweep.measurements))


def milliseconds(seconds: float | None) -> str:
    return number(None if seconds is None else 1000 * seconds)


def number(value: float | None) -> str:
    """With three digits that mean something"""
    if value is None:
        return "–"
    digits = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:,.{min(max(digits, 0), 3)}f}"
