"""What the routes of files and batches, and the runner, have in common: made once when an API process starts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from embedway.batches.records import Limits
from embedway.batches.storage import Storage

if TYPE_CHECKING:
    from pathlib import Path

    from embedway.config import Settings


@dataclass(frozen=True, slots=True)
class Batches:
    storage: Storage
    limits: Limits
    clock: Callable[[], float] = time.time
    """Unix seconds"""
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    """Set where there is something new for the runner"""

    @classmethod
    def of(cls, data_dir: Path, settings: Settings) -> Batches:
        return cls(Storage(data_dir), Limits.of(settings))

    def close(self) -> None:
        self.storage.close()
