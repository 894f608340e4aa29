"""The memory of a server's processes over time, by what they are."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import psutil

from running_server import RunningServer

ROLES = {"embedway.engine.loop": "engines", "embedway.api.server": "API process"}


def resident_bytes(server: RunningServer) -> dict[str, int]:
    """What the largest process of each role has; the supervisor's is `supervisor`.

    Not all together: how many engines are there changes as they are replaced.
    """
    root = psutil.Process(server.process.pid)
    largest = {"supervisor": root.memory_info().rss}
    for process in root.children(recursive=True):
        try:
            command, resident = process.cmdline(), process.memory_info().rss
        except (psutil.NoSuchProcess, psutil.ZombieProcess):  # killed a moment ago
            continue
        role = next((ROLES[part] for part in command if part in ROLES), "others")
        largest[role] = max(largest.get(role, 0), resident)
    return largest


def growth(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """By role, 1.0: none."""
    return {role: after[role] / before[role] for role in before.keys() & after.keys()}


@dataclass
class MemoryLog:
    """Samples of a whole run."""

    began: float = field(default_factory=time.monotonic)
    samples: list[tuple[float, dict[str, int]]] = field(default_factory=list)
    """Seconds since the beginning, bytes by role"""

    def sample(self, server: RunningServer) -> None:
        self.samples.append((time.monotonic() - self.began, resident_bytes(server)))

    def between(self, first: float, last: float) -> dict[str, float]:
        """The median bytes of each role in a part of the run, whose limits are shares of it."""
        seconds = self.samples[-1][0]
        values: dict[str, list[int]] = defaultdict(list)
        for at, largest in self.samples:
            if first * seconds <= at <= last * seconds:
                for role, resident in largest.items():
                    values[role].append(resident)
        return {role: statistics.median(own) for role, own in values.items()}
