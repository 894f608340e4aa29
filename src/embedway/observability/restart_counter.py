"""How often the supervisor replaced a process, and why: counted in its own file beside those of the others."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from embedway.observability.families import RESTARTS
from embedway.observability.shared_counters import SharedCounters

RestartCause: TypeAlias = Literal["exit", "signal", "hang", "rolling"]
"""What ended the process before: itself, a signal (the kernel's, where memory ran out), the watchdog, or a restart that
was asked for"""

_SAMPLE = re.compile(rf'{RESTARTS}{{process="(.*)",cause="(.*)"}}')


class RestartCounter:
    def __init__(self, folder: Path, processes: Iterable[str] = ()) -> None:
        """`processes` are the names of those that there are."""
        self._counters = SharedCounters(folder)
        self._slots: dict[tuple[str, RestartCause], int] = {}
        for name in processes:
            self.show(name)

    def show(self, process: str) -> None:
        """Have a further process's counts told, from 0; or from where they were, if there was one of the name."""
        for cause in get_args(RestartCause):
            if (process, cause) not in self._slots:
                sample = f'{RESTARTS}{{process="{process}",cause="{cause}"}}'
                [self._slots[process, cause]] = self._counters.slots(sample)

    def count(self, process: str, cause: RestartCause) -> None:
        self._counters.values[self._slots[process, cause]] += 1


def restarts_in(samples: Mapping[str, float]) -> dict[str, dict[str, int]]:
    """By process and cause, those that there were: for people, of `SharedCounters.totals`."""
    found: dict[str, dict[str, int]] = {}
    for name, value in samples.items():
        if value and (match := _SAMPLE.fullmatch(name)):
            found.setdefault(match[1], {})[match[2]] = int(value)
    return found
