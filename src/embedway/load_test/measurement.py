"""What one load gave: latencies, tokens, and the requests that got no vectors, by what they got."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from embedway.load_test.client import Answer, Client, NoAnswer

OK, REFUSED = 200, "429"
USAGE = re.compile(rb'"prompt_tokens"\s*:\s*(\d+)')


@dataclass(frozen=True, slots=True)
class Load:
    """How requests come; one of the two is there."""

    concurrency: int | None = None
    """So many at a time: closed"""
    rate: float | None = None
    """So many a second on average, however many are unanswered: open"""

    def __str__(self) -> str:
        return f"{self.concurrency} at a time" if self.rate is None else f"{self.rate:g} a second"


@dataclass(frozen=True, slots=True)
class Measurement:
    """Of one load; times are in seconds."""

    load: Load
    seconds: float
    """From the first request to the last answer"""
    latencies: npt.NDArray[np.float64]
    """Of the answered requests, ascending; of an open load from when a request was due, else from when it was sent"""
    tokens: int | None
    """That the server says it read; None where it does not say"""
    failures: Mapping[str, int]
    """Status, or why there was no answer → requests"""
    client_share: float
    """Of a core, for the client itself: near 1 it is the client that was measured"""

    @property
    def answered(self) -> int:
        return len(self.latencies)

    @property
    def refused(self) -> int:
        """With 429: the server said that it has too much to do."""
        return self.failures.get(REFUSED, 0)

    @property
    def failed(self) -> int:
        """With anything else than vectors or 429"""
        return sum(self.failures.values()) - self.refused

    @property
    def requests_per_second(self) -> float:
        return self.answered / self.seconds

    @property
    def tokens_per_second(self) -> float | None:
        return None if self.tokens is None else self.tokens / self.seconds

    def percentile(self, percent: float) -> float | None:
        """The latency that so many percent of the answers did not exceed; None where there is no answer."""
        return float(np.percentile(self.latencies, percent)) if self.answered else None


@dataclass(slots=True)
class Tally:
    """Counts while a load runs."""

    latencies: list[float] = field(default_factory=list)
    tokens: int = 0
    has_usage: bool = True
    failures: Counter[str] = field(default_factory=Counter)
    began: float = field(default_factory=time.perf_counter)
    cpu_began: float = field(default_factory=time.process_time)

    async def send(self, client: Client, request: bytes, due: float) -> Answer | None:
        """Send one request, whose clock started at `due`, and count what it gets; None for no answer."""
        try:
            answer = await client.send(request)
        except NoAnswer as error:
            self.failures[str(error)] += 1
            return None
        latency = time.perf_counter() - due
        if answer.status != OK:
            self.failures[str(answer.status)] += 1
            return answer
        self.latencies.append(latency)
        if (tokens := read_usage(answer.body)) is None:
            self.has_usage = False
        else:
            self.tokens += tokens
        return answer

    def end(self, load: Load) -> Measurement:
        seconds = time.perf_counter() - self.began
        return Measurement(
            load=load,
            seconds=seconds,
            latencies=np.sort(np.array(self.latencies, np.float64)),
            tokens=self.tokens if self.has_usage and self.latencies else None,
            failures=dict(self.failures),
            client_share=(time.process_time() - self.cpu_began) / seconds,
        )


def read_usage(body: bytes) -> int | None:
    """Tokens by `usage.prompt_tokens`: parsing the whole answer would take the client longer than all else."""
    place = body.rfind(b'"prompt_tokens"')
    found = USAGE.match(body, place) if place >= 0 else None
    return int(found.group(1)) if found else None


def best(measurements: Sequence[Measurement]) -> Measurement:
    """The one with the most requests a second."""
    return max(measurements, key=lambda one: one.requests_per_second)
