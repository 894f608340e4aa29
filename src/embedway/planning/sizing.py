"""From a workload and one machine to how many: arithmetic, in which every assumption has a name."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedway.planning.simulation import Outcome, highest_rate, simulate

if TYPE_CHECKING:
    from embedway.planning.machine import Machine

HOURS_A_MONTH = 730
BULK_SHARE = 0.9
"""Of a machine's time that a backlog gets: the rest is reading, writing, restarts and work done again"""
HEADROOM = 0.6
"""Of the highest simulated rate: near its limit a server's p99 was a multiple of the simulated one"""
TEXT_BYTES_A_TOKEN = 4.5
"""English; JSON's quotes are in HEAD_BYTES"""
HEAD_BYTES = 500
"""Of HTTP and JSON around a request, and as many around its answer"""
BASE64 = 4 / 3
PROCESS_BYTES = 170 * 2**20
"""Supervisor, API process and engine without weights: MiniLM's server as it was measured, less its weights"""
SCRATCH_FLOATS = 12
"""Floats of the model's width for each token of a batch: queries, keys, values, the feed-forward's four, residuals"""
CACHE_BYTES = 64 * 2**20
"""--cache-mb"""
QUEUE_SECONDS, QUEUED_BYTES_A_TOKEN = 60, 12
"""--max-queued-tokens is a minute's work by default; a token waits as text, as its id and in its message"""
INDEX_BYTES = 128
"""An HNSW graph's links of a vector, 16 neighbours on two sides of four bytes each"""


@dataclass(frozen=True, slots=True)
class Model:
    dimension: int
    weights_bytes: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """Documents that are there already; one of `days` and `machines` is given."""

    documents: int
    tokens: int
    """Of each"""
    days: float | None = None
    machines: int | None = None


@dataclass(frozen=True, slots=True)
class Queries:
    per_second: float
    tokens: int
    spread: float
    """Of the tokens: standard deviation against mean"""
    p99_ms: float
    spare: int
    """Machines that may be lost at any time"""
    domains: int
    """Zones, racks or hosts, over which machines are spread evenly and of which one may be lost whole; 1: none may"""


@dataclass(frozen=True, slots=True)
class BacklogPlan:
    machines: int
    hours: float
    tokens_per_second: float
    """Of one machine"""
    cost: float | None
    bytes_in_per_second: float
    """Of all machines, as the next one"""
    bytes_out_per_second: float
    stored_bytes: dict[str, float]
    """Type of the vectors → bytes of all"""
    index_bytes: float


@dataclass(frozen=True, slots=True)
class QueriesPlan:
    machines: int
    needed: int
    """Without those that may be lost"""
    limit: Outcome
    """The highest rate of one machine"""
    planned: Outcome
    """What each of those has after all losses"""
    cost_a_month: float | None
    bytes_in_per_second: float
    bytes_out_per_second: float


def plan_backlog(backlog: Backlog, machine: Machine, model: Model, price: float | None) -> BacklogPlan:
    speed = machine.bulk_tokens_per_second(backlog.tokens)
    machine_hours = backlog.documents * backlog.tokens / (speed * BULK_SHARE) / 3600
    count = backlog.machines or math.ceil(machine_hours / (24 * (backlog.days or 1)))
    per_second = backlog.documents / (machine_hours / count * 3600)
    values = float(backlog.documents * model.dimension)
    return BacklogPlan(
        machines=count,
        hours=machine_hours / count,
        tokens_per_second=speed,
        cost=None if price is None else machine_hours * price,
        bytes_in_per_second=per_second * backlog.tokens * TEXT_BYTES_A_TOKEN,
        bytes_out_per_second=per_second * model.dimension * 4,
        stored_bytes={"float32": values * 4, "int8": values, "binary": values / 8},
        index_bytes=float(backlog.documents * INDEX_BYTES),
    )


def plan_queries(queries: Queries, machine: Machine, model: Model, price: float | None) -> QueriesPlan | None:
    """None where no rate keeps the p99."""
    limit = highest_rate(machine, tokens=queries.tokens, spread=queries.spread, p99_ms=queries.p99_ms)
    if limit is None:
        return None
    needed = math.ceil(queries.per_second / (limit.rate * HEADROOM))
    rate = queries.per_second / needed
    planned = simulate(machine, rate=rate, tokens=queries.tokens, spread=queries.spread)
    count = machines_with_losses(needed, spare=queries.spare, domains=queries.domains)
    return QueriesPlan(
        machines=count,
        needed=needed,
        limit=limit,
        planned=planned,
        cost_a_month=None if price is None else count * price * HOURS_A_MONTH,
        bytes_in_per_second=queries.per_second * (queries.tokens * TEXT_BYTES_A_TOKEN + HEAD_BYTES),
        bytes_out_per_second=queries.per_second * (model.dimension * 4 * BASE64 + HEAD_BYTES),
    )


def machines_with_losses(needed: int, *, spare: int, domains: int) -> int:
    """The fewest of which `needed` are left after `spare` are lost, or one of the domains whole."""
    if domains == 1:
        return needed + spare
    return max(needed + spare, -(-needed * domains // (domains - 1)))


def memory_bytes(machine: Machine, model: Model, *, tokens: int) -> dict[str, float]:
    """Of one machine, by what it is for."""
    queued = QUEUE_SECONDS * machine.bulk_tokens_per_second(tokens)
    return {
        "processes": PROCESS_BYTES,
        "weights": model.weights_bytes,
        "a batch": 4.0 * SCRATCH_FLOATS * model.dimension * machine.max_batch_tokens,
        "queue": queued * QUEUED_BYTES_A_TOKEN,
        "cache": CACHE_BYTES,
    }
