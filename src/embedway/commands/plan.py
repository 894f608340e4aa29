"""`embedway plan`: how many machines, and what do they cost?"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedway.commands.json_output import print_json
from embedway.errors import InvalidSetting

if TYPE_CHECKING:
    from embedway.planning.machine import Machine


def plan(
    tokens_per_second: Annotated[
        float | None, typer.Option(min=1.0, help="What one machine computes, as measured on full batches.")
    ] = None,
    fixed_ms: Annotated[float, typer.Option(min=0.0, help="With it: what a batch takes whatever is in it.")] = 0.5,
    model: Annotated[str | None, typer.Option(help="Measure a batch's time of this model here instead.")] = None,
    bench: Annotated[
        Path | None,
        typer.Option(help="Take it from a file of `embedway bench --concurrency 1,16,64 --json` instead."),
    ] = None,
    target_batch_ms: Annotated[
        float | None, typer.Option(min=0.1, help="The server's setting; 40 by default on a CPU.")
    ] = None,
    path_ms: Annotated[
        float | None, typer.Option(min=0.0, help="What a query takes beside waiting and its batch. By default 1.")
    ] = None,
    shared_ms: Annotated[
        float | None,
        typer.Option(
            min=0.0, help="What a query's HTTP and JSON take of the model's time: 0.5 by default, 0 with cores enough."
        ),
    ] = None,
    documents: Annotated[int | None, typer.Option(min=1, help="Documents to embed once.")] = None,
    document_tokens: Annotated[int, typer.Option(min=1, help="Tokens of each.")] = 200,
    days: Annotated[float | None, typer.Option(min=0.001, help="They have to be done in so many days.")] = None,
    machines: Annotated[int | None, typer.Option(min=1, help="They are done on so many machines instead.")] = None,
    queries_per_second: Annotated[float | None, typer.Option(min=0.001, help="Queries that come a second.")] = None,
    query_tokens: Annotated[int, typer.Option(min=1, help="Tokens of each, on average.")] = 12,
    query_spread: Annotated[
        float, typer.Option(min=0.0, max=2.0, help="Their standard deviation against that mean; longer ones wait.")
    ] = 0.5,
    p99_ms: Annotated[float, typer.Option("--p99-ms", min=0.1, help="99 of 100 are answered in so long.")] = 50.0,
    spare: Annotated[int, typer.Option(min=0, help="Machines for queries that may be lost at any time.")] = 1,
    domains: Annotated[int, typer.Option(min=1, help="Failure domains (zones); of two or more one may be lost.")] = 1,
    price: Annotated[float | None, typer.Option(min=0.0, help="Of a machine, an hour.")] = None,
    dimension: Annotated[int, typer.Option(min=1, help="Numbers of a vector.")] = 384,
    weights_mb: Annotated[float, typer.Option(min=0.0, help="Memory of the weights; MiniLM's in bfloat16: 45.")] = 45.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON, and nothing else.")] = False,
) -> None:
    """Plan machines, hours, cost, memory and network from what one machine does, and print all that is assumed.

    Exit status: 0, 1 where no number of machines answers queries as fast as wanted, 2 where nothing can be planned.
    """
    from rich.console import Console

    from embedway.planning import report, sizing

    if documents is None and queries_per_second is None:
        raise InvalidSetting(setting="--documents", problem="give it, or --queries-per-second, or both")
    if documents is not None and (days is None) == (machines is None):
        raise InvalidSetting(setting="--days", problem="--documents needs it or --machines, and not both")
    machine = _machine(tokens_per_second, fixed_ms, model, bench)
    given = {"path_ms": path_ms, "shared_ms": shared_ms, "target_ms": target_batch_ms}
    machine = dataclasses.replace(machine, **{name: value for name, value in given.items() if value is not None})
    vectors = sizing.Model(dimension, round(weights_mb * 2**20))
    wanted = queries = backlog = None
    if documents is not None:
        work = sizing.Backlog(documents, document_tokens, days, machines)
        backlog = sizing.plan_backlog(work, machine, vectors, price)
    if queries_per_second is not None:
        wanted = sizing.Queries(queries_per_second, query_tokens, query_spread, p99_ms, spare, domains)
        queries = sizing.plan_queries(wanted, machine, vectors, price)
    memory = sizing.memory_bytes(machine, vectors, tokens=document_tokens if documents else query_tokens)
    made = report.Plan(machine, memory, backlog, queries, wanted)
    if as_json:
        print_json(report.as_json(made))
    else:
        report.print_plan(Console(highlight=False, markup=False), made)
    if wanted is not None and queries is None:
        sentence = f"one query alone takes longer than {p99_ms:g} ms on this machine: more machines do not help"
        Console(stderr=True).print(f"Error: --p99-ms: {sentence}", soft_wrap=True, highlight=False)
        raise typer.Exit(1)


def _machine(tokens_per_second: float | None, fixed_ms: float, model: str | None, bench: Path | None) -> Machine:
    """Of the one source that is given. Raises InvalidSetting, and what loading a model raises."""
    from embedway.planning.machine import Machine, measure, of_bench, of_throughput

    match tokens_per_second, model, bench:
        case float(), None, None:
            return Machine(of_throughput(tokens_per_second, fixed_ms), "as given")
        case None, str(), None:
            return Machine(measure(model), f"{model}, measured here")
        case None, None, Path():
            return Machine(of_bench(bench), f"from {bench}, with API and client", path_ms=0.0, shared_ms=0.0)
    raise InvalidSetting(setting="--tokens-per-second", problem="give it, --model or --bench: one of them")
