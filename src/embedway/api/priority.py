"""A request's `priority` → the scheduler's, where larger is always first; those of batches come behind all others."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.requests import Request

    from embedway.config import Settings

LAST = -(2**63)
BATCH_MARK = "is_of_batch"
"""In a request's state: it is a line of a batch, and nobody waits for it"""


def is_of_batch(request: Request) -> bool:
    return BATCH_MARK in request.scope["state"]


def priority_of(request: Request, given: int | None, settings: Settings) -> int:
    return LAST if is_of_batch(request) else scheduler_priority(given, settings)


def scheduler_priority(given: int | None, settings: Settings) -> int:
    value = settings.default_priority_value if given is None else given
    return -value if settings.schedule_low_priority_values_first else value
