"""How a run goes on: a bar on a terminal, a line now and then elsewhere, and what it did."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from embedway.files.run import ERRORS_ENDING, Progress

LINE_SECONDS = 10.0


class Shown:
    """Of one run. `update` is called after each of its parts."""

    def __init__(self, progress: Progress, console: Console, bar: Bar | None) -> None:
        self._progress = progress
        self._console = console
        self._bar = bar
        self._task = None if bar is None else bar.add_task("embed", total=max(1, progress.total_bytes), words="")
        self._began = self._line_at = time.monotonic()

    def update(self) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._progress.bytes_done, words=self._words())
        elif not self._console.quiet and time.monotonic() - self._line_at > LINE_SECONDS:
            self._line_at = time.monotonic()
            self._console.print(f"{self._share():.0%}: {self._words()}")

    def _share(self) -> float:
        return self._progress.bytes_done / max(1, self._progress.total_bytes)

    def _words(self) -> str:
        progress, seconds = self._progress, self.seconds
        words = [
            f"{progress.rows_before + progress.rows:,} rows",
            f"{progress.rows / seconds:,.0f} rows/s",
            f"{progress.tokens / seconds:,.0f} tokens/s",
        ]
        if progress.bad:
            words.append(f"{progress.bad:,} bad")
        done = progress.bytes_done - progress.bytes_before
        if done > 0:
            words.append(f"{clock((progress.total_bytes - progress.bytes_done) / done * seconds)} left")
        return ", ".join(words)

    @property
    def seconds(self) -> float:
        return max(1e-3, time.monotonic() - self._began)

    def print_end(self, output: str) -> None:
        progress = self._progress
        before = f", {progress.rows_before:,} of them by an earlier run" if progress.rows_before else ""
        rows = progress.rows_before + progress.rows
        self._console.print(
            f"{output}: {rows:,} rows{before}; {clock(self.seconds)}, {progress.rows / self.seconds:,.0f} rows/s, "
            f"{progress.tokens / self.seconds:,.0f} tokens/s"
        )
        if progress.bad:
            self._console.print(f"{progress.bad:,} rows have no vector: see {output}{ERRORS_ENDING}")

    def as_json(self, output: str) -> dict[str, Any]:
        progress = self._progress
        return {
            "output": output,
            "rows": progress.rows_before + progress.rows,
            "rows_of_earlier_runs": progress.rows_before,
            "bad_rows": progress.bad,
            "errors": output + ERRORS_ENDING if progress.bad else None,
            "tokens": progress.tokens,
            "seconds": round(self.seconds, 3),
            "rows_per_second": round(progress.rows / self.seconds, 1),
            "tokens_per_second": round(progress.tokens / self.seconds, 1),
        }


@contextlib.contextmanager
def shown(progress: Progress, *, is_quiet: bool) -> Generator[Shown]:
    """On stderr."""
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True, quiet=is_quiet)
    if not console.is_terminal or is_quiet:
        yield Shown(progress, console, None)
        return
    with Bar(
        TextColumn("{task.percentage:>3.0f}%"), BarColumn(), TextColumn("{task.fields[words]}"), console=console
    ) as bar:
        yield Shown(progress, console, bar)


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
