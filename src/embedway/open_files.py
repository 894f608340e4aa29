"""How many files and connections the system lets a process have open."""

from __future__ import annotations

import contextlib
import resource

RESERVED = 64
"""For all that is no client: sockets to the engines, logs, images, the libraries' own"""


def raise_limit() -> None:
    """Take all that this process may have; its children inherit it. Shells usually give a small part of it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS says "infinite" and means less
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connections_that_fit(wanted: int) -> int:
    """As many of the wanted ones as there is room for: a process out of files could not even refuse a further one."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - RESERVED))
