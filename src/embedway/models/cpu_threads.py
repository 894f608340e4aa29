"""How many CPU threads a model may use."""

from __future__ import annotations

import os


def available_cores() -> int:
    """Cores that this process may use (its affinity, not the machine's total)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
