"""`embedway bench`: how fast is a server, and how much can it take?"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedway.commands.json_output import print_json
from embedway.errors import InvalidSetting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embedway.load_test.measurement import Load, Measurement

DEFAULT_URL = "http://127.0.0.1:30000"
KEY_VARIABLE = "EMBEDWAY_BENCH_API_KEY"
MOST = 100_000
"""Of requests at a time, and a second"""


def bench(
    url: Annotated[
        str, typer.Argument(help="The server: http://HOST:PORT, OpenAI's base URL (…/v1), or the route itself.")
    ] = DEFAULT_URL,
    model: Annotated[
        str | None, typer.Option(help="The model's name. By default the first one that the server lists.")
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar=KEY_VARIABLE, show_envvar=True, help="Sent as a bearer token. The variable is in no process list."
        ),
    ] = None,
    concurrency: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,…",
            help="Requests at a time, one load after the other. By default 1, 2, 4, … until the throughput grows by "
            "less than 5%.",
        ),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(
            metavar="R,R,…",
            help="Requests a second instead, at random times, however many are unanswered; their latencies count from "
            "when they were due.",
        ),
    ] = None,
    duration: Annotated[float, typer.Option(min=0.1, help="Seconds of each load.")] = 10.0,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts in each request.")] = 1,
    words: Annotated[int, typer.Option(min=1, help="Words of a made-up text, on average.")] = 8,
    texts: Annotated[
        Path | None,
        typer.Option(
            "--input",
            help="A file of texts to send instead, over and over: one a line, or .jsonl. A server with a cache answers "
            "repeats from it.",
        ),
    ] = None,
    encoding_format: Annotated[
        str, typer.Option(metavar="base64|float", help="How vectors are sent; OpenAI's clients ask for base64.")
    ] = "base64",
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for an answer.")] = 60.0,
    plot: Annotated[
        Path | None, typer.Option(help="Write a picture of the results: a .png, .svg or .pdf file. Needs matplotlib.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON, and nothing else.")] = False,
) -> None:
    """Put load on a server with OpenAI's /v1/embeddings, and show its throughput and latencies.

    Exit status: 0, 1 where requests failed (429 is no failure), 2 where nothing could be measured.
    """
    import uvloop
    from rich.console import Console

    from embedway.load_test import report
    from embedway.load_test.plot import check_can_plot
    from embedway.load_test.plot import plot as draw
    from embedway.load_test.sweep import Plan, measure
    from embedway.load_test.target import read_target

    plan = Plan(
        target=read_target(url, api_key),
        model=model,
        texts=_texts(texts, words),
        items_per_request=batch_size,
        encoding_format=_encoding_format(encoding_format),
        seconds=duration,
        timeout=timeout,
        loads=_loads(concurrency, rate),
    )
    if plot is not None:
        check_can_plot(plot)
    with Console(stderr=True).status("Asking the server for its first vector …") as status:

        def on_measured(measured: Measurement) -> None:
            status.update(f"{measured.load}: {report.number(measured.requests_per_second)} requests/s …")

        sweep = uvloop.run(measure(plan, on_measured))
    if plot is not None:
        draw(sweep.measurements, plot, f"{sweep.model} at {plan.target.url}")
    if as_json:
        print_json(report.as_json(plan, sweep))
    else:
        report.print_sweep(Console(highlight=False, markup=False), plan, sweep)
    raise typer.Exit(report.exit_status(sweep))


def _texts(path: Path | None, num_words: int) -> Iterator[str]:
    from embedway.load_test.texts import made_up, read_texts

    return made_up(num_words) if path is None else itertools.cycle(read_texts(path))


def _encoding_format(given: str) -> str:
    if given not in ("base64", "float"):
        raise InvalidSetting(setting="--encoding-format", problem=f"{given!r} is neither base64 nor float")
    return given


def _loads(concurrency: str | None, rate: str | None) -> tuple[Load, ...]:
    from embedway.load_test.measurement import Load

    if concurrency is not None and rate is not None:
        raise InvalidSetting(setting="--rate", problem="is of no use with --concurrency: give one of them")
    if rate is not None:
        return tuple(Load(rate=number) for number in _numbers("--rate", rate))
    if concurrency is None:
        return ()
    numbers = _numbers("--concurrency", concurrency)
    if any(number % 1 for number in numbers):
        raise InvalidSetting(setting="--concurrency", problem=f"{concurrency!r} has a part of a request")
    return tuple(Load(concurrency=int(number)) for number in numbers)


def _numbers(flag: str, given: str) -> list[float]:
    try:
        numbers = [float(part) for part in given.replace(",", " ").split()]
    except ValueError:
        numbers = []
    if not numbers or not all(0 < number <= MOST for number in numbers):
        problem = f"{given!r} must be numbers above 0, at most {MOST:,}, with commas between them"
        raise InvalidSetting(setting=flag, problem=problem)
    return numbers
