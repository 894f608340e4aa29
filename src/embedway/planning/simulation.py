"""One machine under queries, simulated: the engine's own scheduler by a clock that goes on by the batches' times.

Requests come at the times of a Poisson process. A batch runs alone; what comes meanwhile waits in the queue.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embedway.engine.batch_time_model import BatchTimeModel
from embedway.engine.scheduler import QueuedRequest, Scheduler, sum_of_squares
from embedway.planning.machine import Machine

NUM_REQUESTS = 20_000
SKIPPED = 0.1
"""Of the requests, the first ones: they find an empty queue"""
BISECTIONS = 8
"""The rate is then known to a 256th of the machine's limit."""


@dataclass(slots=True, eq=False)
class Query(QueuedRequest):
    arrived: int = 0
    """How many came before it"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a rate of requests a second gives."""

    rate: float
    answered_per_second: float
    """From the first arrival to the last answer"""
    p50_ms: float
    p99_ms: float
    mean_ms: float
    utilisation: float
    """Part of the time in which the engine ran a batch"""
    requests_per_batch: float


def simulate(
    machine: Machine,
    *,
    rate: float,
    tokens: int,
    spread: float = 0.0,
    num_requests: int = NUM_REQUESTS,
    seed: int = 0,
) -> Outcome:
    """`rate` requests a second of so many tokens on average. The same seed gives the same outcome.

    `spread` is the lengths' standard deviation against their mean; they are gamma-distributed, and whole numbers.
    The same seed at another rate has the same arrivals, nearer to each other: outcomes compare without noise.
    """
    dice = np.random.default_rng(seed)
    arrivals = (dice.exponential(size=num_requests).cumsum() * (1000 / rate)).tolist()
    shape = 1 / max(spread, 1e-3) ** 2
    drawn = dice.gamma(shape, tokens / shape, num_requests) if spread else np.full(num_requests, tokens)
    lengths = np.maximum(1, np.rint(drawn)).astype(np.int32)
    ended = np.empty(num_requests)
    scheduler = _scheduler(machine)
    token_ids = np.zeros(lengths.max(), dtype=np.int32)
    now = busy_ms = 0.0
    num_come = num_batches = 0
    while num_come < num_requests or scheduler.queued_requests:
        if not scheduler.queued_requests:
            now = max(now, arrivals[num_come])
        while num_come < num_requests and arrivals[num_come] <= now:
            length = lengths[num_come]
            cu_seqlens = np.array([0, length], dtype=np.int32)
            scheduler.add(Query(num_come, token_ids[:length], cu_seqlens, arrived=num_come))
            num_come += 1
        slices = scheduler.next_batch()
        batch = [piece.request.arrived for piece in slices]
        took = machine.costs.predict(int(lengths[batch].sum()), sum_of_squares(lengths[batch]))
        took += len(batch) * machine.shared_ms
        now += took
        busy_ms += took
        num_batches += 1
        ended[batch] = now
    latencies = (ended - arrivals)[int(SKIPPED * num_requests) :] + machine.path_ms
    span_ms = now - arrivals[0]
    return Outcome(
        rate=rate,
        answered_per_second=1000 * num_requests / span_ms,
        p50_ms=float(np.percentile(latencies, 50)),
        p99_ms=float(np.percentile(latencies, 99)),
        mean_ms=float(latencies.mean()),
        utilisation=busy_ms / span_ms,
        requests_per_batch=num_requests / num_batches,
    )


def highest_rate(
    machine: Machine, *, tokens: int, p99_ms: float, spread: float = 0.0, num_requests: int = NUM_REQUESTS
) -> Outcome | None:
    """The most requests a second whose p99 is at most so long; None where a lone request takes longer."""
    each = machine.costs.variable(tokens, tokens**2) + machine.shared_ms
    if machine.costs.fixed + each + machine.path_ms > p99_ms:
        return None
    low, high = 0.0, 1000 / each
    best: Outcome | None = None
    for _ in range(BISECTIONS):
        rate = (low + high) / 2
        outcome = simulate(machine, rate=rate, tokens=tokens, spread=spread, num_requests=num_requests)
        if outcome.p99_ms <= p99_ms:
            low, best = outcome.rate, outcome
        else:
            high = outcome.rate
    return best


def _scheduler(machine: Machine) -> Scheduler[Query]:
    time_model = BatchTimeModel()
    time_model.coefficients = machine.costs
    return Scheduler(max_batch_tokens=machine.max_batch_tokens, target_ms=machine.target_ms, time_model=time_model)
