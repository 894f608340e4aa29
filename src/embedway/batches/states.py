"""The states of a batch, and which may follow which."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

Status: TypeAlias = Literal[
    "validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled"
]
STATUSES: tuple[Status, ...] = get_args(Status)

FOLLOWS: dict[Status, tuple[Status, ...]] = {
    "validating": ("in_progress", "failed", "expired", "cancelling"),
    "in_progress": ("finalizing", "expired", "cancelling"),
    "finalizing": ("completed",),
    "cancelling": ("cancelled",),
    "completed": (),
    "failed": (),
    "expired": (),
    "cancelled": (),
}
OPEN: tuple[Status, ...] = tuple(status for status in STATUSES if FOLLOWS[status])
"""There is still something to do"""
OPEN_IN_SQL = ", ".join(f"'{status}'" for status in OPEN)


def time_column(status: Status) -> str:
    """Where it is written when a batch came to be so: a field of OpenAI's object, too."""
    return "created_at" if status == "validating" else f"{status}_at"


def may_become(status: Status) -> tuple[Status, ...]:
    """Those from which a batch may come to be `status`."""
    return tuple(earlier for earlier in STATUSES if status in FOLLOWS[earlier])
