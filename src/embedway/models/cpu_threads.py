"""How many CPU threads a model uses."""

from __future__ import annotations

import os


def available_cores() -> int:
    """Cores that this process may use (its affinity, not the machine's total)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def set_threads(requested: int) -> int:
    """Give torch `requested` threads, or one a core where it is 0; return their number."""
    import torch

    threads = requested or available_cores()
    torch.set_num_threads(threads)
    return threads
