"""What was measured as a picture, by matplotlib where that is installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from embedway.errors import InvalidSetting
from embedway.load_test.histogram import classes
from embedway.load_test.measurement import Measurement, best

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

PERCENTILES = (50, 90, 99)
NUM_CLASSES = 40


def check_can_plot(path: Path) -> None:
    """Said before anything is measured. Raises InvalidSetting."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        problem = "needs matplotlib, which is not installed: pip install matplotlib"
        raise InvalidSetting(setting="--plot", problem=problem) from error
    known = Figure().canvas.get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in known:
        raise InvalidSetting(setting="--plot", problem=f"{path} must end in .png, or another of {', '.join(known)}")
    if not path.absolute().parent.is_dir():
        raise InvalidSetting(setting="--plot", problem=f"there is no folder {path.absolute().parent}")


def plot(measurements: Sequence[Measurement], path: Path, title: str) -> None:
    """Throughput and latency against load, where there are several loads, and the latencies of the best one."""
    from matplotlib.figure import Figure

    num_plots = 3 if len(measurements) > 1 else 1
    figure = Figure(figsize=(5 * num_plots, 4), layout="constrained")
    *against_load, last = figure.subplots(1, num_plots, squeeze=False)[0]
    if against_load:
        _draw_throughput(against_load[0], measurements)
        _draw_latency(against_load[1], measurements)
    _draw_histogram(last, best(measurements))
    figure.suptitle(title)
    figure.savefig(path)


def _draw_throughput(axes: Axes, measurements: Sequence[Measurement]) -> None:
    axes.plot(_loads(measurements), [one.requests_per_second for one in measurements], marker="o")
    axes.set(ylabel="requests/s", ylim=(0, None))
    _finish_load_axis(axes, measurements)


def _draw_latency(axes: Axes, measurements: Sequence[Measurement]) -> None:
    for percent in PERCENTILES:
        values = [one.percentile(percent) for one in measurements]
        milliseconds = [float("nan") if value is None else 1000 * value for value in values]
        axes.plot(_loads(measurements), milliseconds, marker="o", label=f"p{percent}")
    axes.set(ylabel="latency, ms", yscale="log")
    _write_plain_numbers(axes.yaxis)
    axes.legend()
    _finish_load_axis(axes, measurements)


def _draw_histogram(axes: Axes, measurement: Measurement) -> None:
    axes.set(xlabel=f"latency, ms ({measurement.load})", ylabel="requests", xscale="log")
    if measurement.answered:
        counts, edges = classes(measurement.latencies, NUM_CLASSES)
        axes.stairs(counts, 1000 * edges, fill=True)
    _write_plain_numbers(axes.xaxis)


def _write_plain_numbers(axis: Axis) -> None:
    """200 instead of 2 times ten to its square"""
    from matplotlib.ticker import LogFormatter

    axis.set_major_formatter(LogFormatter())
    axis.set_minor_formatter(LogFormatter())


def _loads(measurements: Sequence[Measurement]) -> list[float]:
    return [one.load.rate or one.load.concurrency or 0 for one in measurements]


def _finish_load_axis(axes: Axes, measurements: Sequence[Measurement]) -> None:
    label = "requests at a time" if measurements[0].load.rate is None else "requests/s that came"
    axes.set_xscale("log", base=2)
    axes.set_xlabel(label)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3)
