"""The server's processes and their memory, as /proc tells of them. Elsewhere than on Linux nothing is known."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
MODULES = {
    b"embedway.engine.loop": "engine",
    b"embedway.api.server": "api",
    b"embedway.api.body_worker": "body_worker",
    b"embedway.media.worker": "media_worker",
}
"""What follows `python -m` → the kind of process"""
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    pid: int
    kind: str
    resident_bytes: int


def server_processes() -> list[ProcessFacts]:
    """Those of the server that this API process belongs to: its parent, the supervisor, and all below that.

    One that ends meanwhile is left out.
    """
    return list(_with_children(os.getppid(), "supervisor"))


def _with_children(pid: int, kind: str) -> Iterator[ProcessFacts]:
    with contextlib.suppress(OSError, ValueError, IndexError):
        resident = int((PROC / str(pid) / "statm").read_bytes().split()[1]) * PAGE_BYTES
        children = [int(child) for child in _children_of(pid)]
        yield ProcessFacts(pid, kind, resident)
        for child in children:
            if (kind_of_child := _kind_of(child)) is not None:
                yield from _with_children(child, kind_of_child)


def _children_of(pid: int) -> Iterator[bytes]:
    """A child is listed with the thread that started it."""
    for thread in (PROC / str(pid) / "task").iterdir():
        with contextlib.suppress(OSError):
            yield from (thread / "children").read_bytes().split()


def _kind_of(pid: int) -> str | None:
    """By its module alone: what else is in a command line is nobody's business. None: it is not ours."""
    with contextlib.suppress(OSError):
        arguments = (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
        return next((MODULES[argument] for argument in arguments[:4] if argument in MODULES), None)
    return None
