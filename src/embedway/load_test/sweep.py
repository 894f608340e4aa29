"""One load after another: those that were asked for, or twice as many requests at a time until that gains nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from embedway.load_test.client import Client
from embedway.load_test.loads import run
from embedway.load_test.measurement import Load
from embedway.load_test.probe import served_model, vector_length
from embedway.load_test.request_bodies import write_requests

if TYPE_CHECKING:
    from embedway.load_test.measurement import Measurement
    from embedway.load_test.target import Target

NEEDED_GROWTH = 1.05
"""Of the throughput, from one load to one of twice as many requests at a time"""
MOST_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured."""

    target: Target
    model: str | None
    """None: the first that the server lists"""
    texts: Iterator[str]
    items_per_request: int
    encoding_format: str
    seconds: float
    """Of each load"""
    timeout: float
    loads: tuple[Load, ...] = ()
    """Where there are none: twice as many requests at a time until saturation"""


@dataclass(slots=True)
class Sweep:
    """What has been measured."""

    model: str
    dimension: int
    measurements: list[Measurement] = field(default_factory=list)
    is_saturated: bool = False
    """The last load gained nothing over the one before it"""


async def measure(plan: Plan, on_measured: Callable[[Measurement], object]) -> Sweep:
    """Raises NotMeasurable, or InvalidSetting where the model must be named."""
    client = Client(plan.target, timeout=plan.timeout)
    try:
        model = plan.model or await served_model(client)
        requests = write_requests(
            plan.target,
            plan.texts,
            model=model,
            items_per_request=plan.items_per_request,
            encoding_format=plan.encoding_format,
        )
        sweep = Sweep(model, await vector_length(client, next(requests)))
        for load in plan.loads or doubling():
            measured = await run(client, requests, load, seconds=plan.seconds)
            on_measured(measured)
            sweep.is_saturated = not plan.loads and not has_grown(measured, sweep.measurements)
            sweep.measurements.append(measured)
            if sweep.is_saturated:
                break
    finally:
        client.close()
    return sweep


def doubling() -> Iterator[Load]:
    concurrency = 1
    while concurrency <= MOST_AT_ONCE:
        yield Load(concurrency=concurrency)
        concurrency *= 2


def has_grown(measured: Measurement, before: Sequence[Measurement]) -> bool:
    """Whether the throughput is beyond that of all loads before it."""
    most = max((one.requests_per_second for one in before), default=0.0)
    return measured.requests_per_second > NEEDED_GROWTH * most
