"""Is there memory for one more engine beside those that run?"""

from __future__ import annotations

import os
from pathlib import Path

SPARE = 1.25
"""An engine that starts takes more for a while than one that serves"""
MEMORY = Path("/proc/meminfo")
GROUP = Path("/sys/fs/cgroup")
"""The container's own limits, where there are any"""


def has_room_for_another(pid: int) -> bool:
    """Whether as much memory as this process has is free, and a bit; True where the system does not say (macOS)."""
    try:
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return True
    return SPARE * resident <= free_bytes()


def free_bytes() -> float:
    return min(machine_bytes(), group_bytes())


def machine_bytes() -> float:
    try:
        [line] = [line for line in MEMORY.read_text().splitlines() if line.startswith("MemAvailable:")]
    except (OSError, ValueError):
        return float("inf")
    return int(line.split()[1]) * 1024


def group_bytes() -> float:
    """Up to the limit of the control group; cached files are given back when they are in the way."""
    try:
        limit = (GROUP / "memory.max").read_text().strip()
        used = int((GROUP / "memory.current").read_text())
        statistics = dict(line.split() for line in (GROUP / "memory.stat").read_text().splitlines())
        return float("inf") if limit == "max" else int(limit) - used + int(statistics["inactive_file"])
    except (OSError, ValueError, KeyError):
        return float("inf")
