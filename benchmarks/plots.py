"""What was measured as plots: throughput and p99 against load, texts at once, tokens a second against batch size."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.peers import OURS, PEERS
from benchmarks.results import Engine, Figures, Serving, medians
from benchmarks.workloads import WORKLOADS

Medians = Mapping[tuple[str, str], Figures]
COLORS = dict(zip(PEERS, mpl.color_sequences["tab10"], strict=False))


def draw(axes: Axes, figures: Medians, x_of: Callable[[str], int | None], y_of: Callable[[Figures], float]) -> None:
    """A line for each contestant over the workloads to which `x_of` gives a place."""
    points: dict[str, list[tuple[int, float]]] = {}
    for (peer, workload), figure in figures.items():
        if (x := x_of(workload)) is not None:
            points.setdefault(peer, []).append((x, y_of(figure)))
    for peer, line in points.items():
        xs, ys = zip(*sorted(line), strict=True)
        axes.plot(xs, ys, marker="o", label=peer, color=COLORS.get(peer), linewidth=2.5 if peer == OURS else 1.2)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3)


def plot_load(figures: Medians) -> Figure:
    """Throughput above, p99 below; queries and documents."""
    figure = Figure(figsize=(11, 8), layout="constrained")
    grid = figure.subplots(2, 2)
    for column, kind in enumerate(("queries", "documents")):

        def connections(workload: str, kind: str = kind) -> int | None:
            known = WORKLOADS.get(workload)
            is_load = known is not None and known.group in ("load", "curve") and workload.startswith(kind)
            return known.connections if known is not None and is_load else None

        draw(grid[0][column], figures, connections, lambda f: f.texts_per_second)
        draw(grid[1][column], figures, connections, lambda f: f.p99_ms)
        grid[0][column].set(title=f"{kind}: throughput", ylabel="texts a second", ylim=(0, None))
        grid[1][column].set(title=f"{kind}: p99", ylabel="ms", xlabel="connections", yscale="log")
        grid[1][column].yaxis.set_major_formatter("{x:g}")
        grid[1][column].yaxis.set_minor_formatter("")
    grid[0][0].legend()
    return figure


def plot_scaling(figures: Medians) -> Figure:
    """Texts a second against the number of texts at once."""

    def num_texts(workload: str) -> int | None:
        known = WORKLOADS.get(workload)
        return known.num_texts if known is not None and known.group == "scaling" else None

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    draw(axes, figures, num_texts, lambda f: f.texts_per_second)
    axes.set(title="queries given at once", xlabel="texts", ylabel="texts a second", xscale="log", ylim=(0, None))
    axes.legend()
    return figure


def plot_batch_size(figures: Medians) -> Figure:
    """The engine's tokens a second against the tokens of a batch."""

    def batch_tokens(workload: str) -> int | None:
        found = re.search(r" batches of (\d+)$", workload)
        return int(found.group(1)) if found else None

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    draw(axes, figures, batch_tokens, lambda f: f.tokens_per_second)
    axes.set(title="the engine alone, MiniLM", xlabel="tokens in a batch", ylabel="tokens a second", ylim=(0, None))
    axes.legend()
    return figure


def save_plots(folder: Path, serving: Sequence[Serving], engine: Engine | None) -> None:
    """Write the plots for which there are figures."""
    served = medians(run for result in serving for run in result.runs)
    groups = {WORKLOADS[workload].group for _, workload in served if workload in WORKLOADS}
    if "load" in groups:
        plot_load(served).savefig(folder / "load.png", dpi=120)
    if "scaling" in groups:
        plot_scaling(served).savefig(folder / "scaling.png", dpi=120)
    if engine is not None:
        plot_batch_size(medians(engine.runs)).savefig(folder / "batch_size.png", dpi=120)
