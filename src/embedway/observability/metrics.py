"""Prometheus metrics of an API process, and the answer to `/metrics`, which any of them gives for all processes.

All processes count into one folder. A counter's name is that of its sample in Prometheus' text format, labels included.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from embedway.observability.engine_metrics import engine_samples
from embedway.observability.exposition import render
from embedway.observability.families import (
    BATCH_LINES,
    BUILD,
    ENDS,
    IN_PROGRESS,
    ITEMS,
    LATENCY,
    MEDIA,
    MEDIA_FAILURES,
    MEMORY,
    REFUSALS,
    REQUESTS,
    STAGES,
    TOKENS,
    is_gauge,
)
from embedway.observability.histogram import Histogram
from embedway.observability.processes import server_processes
from embedway.observability.shared_counters import SharedCounters, clear
from embedway.observability.stage_clock import STAGES as STAGE_NAMES
from embedway.version import __version__

if TYPE_CHECKING:
    from embedway.media.reader import MediaStep
    from embedway.observability.engine_metrics import Engine
    from embedway.observability.stage_clock import Stage
    from embedway.visual import MediaKind

AT_ZERO = (
    *(
        f'{REFUSALS}{{class="{name}",cause="{cause}"}}'
        for name in ("interactive", "bulk")
        for cause in ("tokens", "requests", "deadline")
    ),
    f'{REFUSALS}{{class="bulk",cause="memory"}}',
    *(f'{ENDS}{{cause="{cause}"}}' for cause in ("disconnect", "deadline", "abort")),
    *(f'{BATCH_LINES}{{outcome="{outcome}"}}' for outcome in ("completed", "failed")),
)
"""Shown before they are counted: an increase from nothing is none to Prometheus"""


def forget_process(folder: Path, pid: int) -> None:
    """Take what a dead process had at its end (requests in progress …) out of the sums; what it counted stays."""
    clear(folder, pid, is_gauge)


class Metrics:
    """One API process's metrics. Belongs to its event loop."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder` is that of all processes; None: this is the only one."""
        self._counters = counters = SharedCounters(folder)
        self._values = counters.values
        self._in_progress, self._items, self._tokens = counters.slots(IN_PROGRESS, ITEMS, TOKENS)
        self._stages: dict[Stage, Histogram] = {
            name: Histogram(counters, STAGES, f'stage="{name}"') for name in STAGE_NAMES
        }
        self._latency: dict[str, Histogram] = {}
        """By route"""
        self._requests: dict[tuple[str, int], int] = {}
        """Route and status → slot"""
        self._media: dict[tuple[MediaStep, MediaKind], Histogram] = {}
        self._labelled = dict(zip(AT_ZERO, counters.slots(*AT_ZERO), strict=True))
        """Name with labels → slot"""
        self._watched: list[tuple[int, Callable[[], float]]] = []

    @contextmanager
    def in_progress(self) -> Generator[None]:
        self.request_began()
        try:
            yield
        finally:
            self.request_ended()

    def request_began(self) -> None:
        self._values[self._in_progress] += 1

    def request_ended(self) -> None:
        self._values[self._in_progress] -= 1

    def refused(self, request_class: str, cause: str) -> None:
        self._count(f'{REFUSALS}{{class="{request_class}",cause="{cause}"}}')

    def batch_line_done(self, is_completed: bool) -> None:
        self._count(f'{BATCH_LINES}{{outcome="{"completed" if is_completed else "failed"}"}}')

    def ended(self, cause: str) -> None:
        self._count(f'{ENDS}{{cause="{cause}"}}')

    def media_read(self, step: MediaStep, kind: MediaKind, seconds: float, failure: str | None) -> None:
        """`failure` is the error's code, None where there was none."""
        if failure is not None:
            self._count(f'{MEDIA_FAILURES}{{step="{step}",kind="{kind}",cause="{failure}"}}')
        if (step, kind) not in self._media:
            self._media[step, kind] = Histogram(self._counters, MEDIA, f'step="{step}",kind="{kind}"')
        self._media[step, kind].observe(seconds)

    def _count(self, name: str) -> None:
        if name not in self._labelled:
            [self._labelled[name]] = self._counters.slots(name)
        self._values[self._labelled[name]] += 1

    def request_done(
        self, route: str, status: int, seconds: float, stages: Iterable[tuple[Stage, float, float]]
    ) -> None:
        """`stages` are a StageClock's."""
        slot = self._requests.get((route, status))
        if slot is None:
            [slot] = self._counters.slots(f'{REQUESTS}{{route="{route}",status="{status}"}}')
            self._requests[route, status] = slot
        if route not in self._latency:
            self._latency[route] = Histogram(self._counters, LATENCY, f'route="{route}"')
        self._values[slot] += 1
        self._latency[route].observe(seconds)
        for stage, began, ended in stages:
            self._stages[stage].observe(ended - began)

    def embedded(self, num_items: int, num_tokens: int) -> None:
        self._values[self._items] += num_items
        self._values[self._tokens] += num_tokens

    def watch(self, sample: str, read: Callable[[], float]) -> None:
        """Show a value of this process, added up over all: it is read at `refresh`, and costs no request anything."""
        [slot] = self._counters.slots(sample)
        self._watched.append((slot, read))

    def refresh(self) -> None:
        """Read what is watched, so that the other processes see it."""
        for slot, read in self._watched:
            self._values[slot] = read()

    def totals(self) -> dict[str, float]:
        """What all processes have counted, by the samples' names."""
        return self._counters.totals()

    def render(self, engines: Iterable[Engine]) -> bytes:
        """The text format, with the engines' newest statuses."""
        self.refresh()
        return render({**self.totals(), **engine_samples(engines), **_process_samples()})


def _process_samples() -> dict[str, float]:
    memory: Counter[str] = Counter()
    for process in server_processes():
        memory[process.kind] += process.resident_bytes
    samples = {f'{MEMORY}{{kind="{kind}"}}': float(num_bytes) for kind, num_bytes in memory.items()}
    return {**samples, f'{BUILD}{{version="{__version__}"}}': 1.0}
