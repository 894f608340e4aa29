"""A plan for people and for programs, with all that it assumes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table

from embedway.planning.simulation import NUM_REQUESTS
from embedway.planning.sizing import BULK_SHARE, HEADROOM, QUEUE_SECONDS, SCRATCH_FLOATS, TEXT_BYTES_A_TOKEN

if TYPE_CHECKING:
    from rich.console import Console

    from embedway.planning.machine import Machine
    from embedway.planning.simulation import Outcome
    from embedway.planning.sizing import BacklogPlan, Queries, QueriesPlan


@dataclass(frozen=True, slots=True)
class Plan:
    machine: Machine
    memory: dict[str, float]
    """Bytes"""
    backlog: BacklogPlan | None
    queries: QueriesPlan | None
    wanted: Queries | None


def as_json(plan: Plan) -> dict[str, Any]:
    """Bytes, milliseconds where a name says so, and money in the currency of the price."""
    return {
        "machine": {**asdict(plan.machine), "costs": plan.machine.costs._asdict()},
        "backlog": plan.backlog and asdict(plan.backlog),
        "queries": plan.queries and asdict(plan.queries),
        "memory_bytes": {**plan.memory, "all": sum(plan.memory.values())},
        "assumptions": assumptions(plan),
    }


def print_plan(console: Console, plan: Plan) -> None:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 3, 0, 0))
    for name, value in rows(plan):
        table.add_row(name, value)
    console.print(table)
    console.print("\nAssumed:")
    for sentence in assumptions(plan):
        console.print(f"- {sentence}", soft_wrap=True)


def rows(plan: Plan) -> list[tuple[str, str]]:
    shown: list[tuple[str, str]] = []
    if backlog := plan.backlog:
        vectors = ", ".join(f"{in_words(size)} in {name}" for name, size in backlog.stored_bytes.items())
        shown += [
            ("Backlog", f"{counted(backlog.machines)}, {backlog.hours:,.1f} hours"),
            ("  one machine", f"{backlog.tokens_per_second:,.0f} tokens/s"),
            ("  cost", money(backlog.cost)),
            ("  network", traffic(backlog)),
            ("  vectors", f"{vectors}; an HNSW graph {in_words(backlog.index_bytes)} more"),
        ]
    if queries := plan.queries:
        shown += [
            ("Queries", f"{counted(queries.machines)}: {queries.needed:,} at work, the rest for losses"),
            ("  one machine", f"at most {outcome(queries.limit)}"),
            ("  as planned", outcome(queries.planned)),
            ("  cost a month", money(queries.cost_a_month)),
            ("  network", traffic(queries)),
        ]
    parts = ", ".join(f"{name} {in_words(size)}" for name, size in plan.memory.items())
    return [*shown, ("Memory of a machine", f"{in_words(sum(plan.memory.values()))}: {parts}")]


def outcome(made: Outcome) -> str:
    latencies = f"p50 {made.p50_ms:.1f} ms, p99 {made.p99_ms:.1f} ms"
    return f"{made.rate:,.0f} queries/s: {latencies}, busy {made.utilisation:.0%} of the time"


def traffic(plan: BacklogPlan | QueriesPlan) -> str:
    return f"{in_words(plan.bytes_in_per_second)}/s in, {in_words(plan.bytes_out_per_second)}/s out, all together"


def assumptions(plan: Plan) -> list[str]:
    machine, costs = plan.machine, plan.machine.costs
    line = f"{costs.fixed:.2f} ms + {1000 * costs.per_token:.3g} µs a token + {1e6 * costs.per_square:.3g} ns a square"
    said = [
        f"A batch takes {line} of a sequence's length ({machine.source}), and at most {machine.target_ms:g} ms.",
        "No text is sent twice, and machines are alike.",
        (
            f"Memory is that of MiniLM's processes, a batch of {machine.max_batch_tokens:,} tokens with "
            f"{SCRATCH_FLOATS} times the vector's width for each, and a queue of {QUEUE_SECONDS} s of work."
        ),
        f"A token is {TEXT_BYTES_A_TOKEN} bytes of text; a backlog's vectors travel as they are, a query's in base64.",
    ]
    if plan.backlog:
        said.append(
            f"A machine computes {BULK_SHARE:.0%} of the time; the rest is reading, writing and work done again."
        )
    if wanted := plan.wanted:
        said += [
            (
                f"Queries come at random (Poisson) on all machines alike; lengths deviate by {wanted.spread:.0%}. "
                f"{NUM_REQUESTS:,} are simulated, and a machine gets {HEADROOM:.0%} of the highest rate "
                f"whose p99 is {wanted.p99_ms:g} ms."
            ),
            (
                f"A query takes {machine.path_ms:g} ms beside its batch, and lengthens that by "
                f"{machine.shared_ms:g} ms, for API process and client. The network's delay is not in it."
            ),
            f"Of the machines for queries {wanted.spare} may be lost"
            + (f", or one of {wanted.domains} failure domains whole." if wanted.domains > 1 else "."),
        ]
    return said


def counted(machines: int) -> str:
    return "1 machine" if machines == 1 else f"{machines:,} machines"


def money(amount: float | None) -> str:
    return "unknown without --price" if amount is None else f"{amount:,.2f}"


def in_words(num_bytes: float) -> str:
    """Decimal units, as networks and disks have them."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.3g} TB" if num_bytes < 1000 else f"{num_bytes:,.0f} TB"
