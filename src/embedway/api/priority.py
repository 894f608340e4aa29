"""A request's `priority` → the scheduler's, where larger is always first."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embedway.config import Settings


def scheduler_priority(given: int | None, settings: Settings) -> int:
    value = settings.default_priority_value if given is None else given
    return -value if settings.schedule_low_priority_values_first else value
