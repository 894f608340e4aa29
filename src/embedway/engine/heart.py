"""The engine's heart: it beats for as long as the run loop gets on with its batches.

A beat says that the process runs, that its I/O thread runs, and that no batch takes far longer than it was predicted
to. The supervisor ends an engine whose heart stands still (`watchdog.py`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

LATENESS = 10.0
"""A batch may take so many times its predicted milliseconds: other processes take the cores, and one that raises is
halved and run again. The watchdog's patience begins after that."""


class Heart:
    """The run loop says what it does, the I/O thread has it beat every BEAT_SECONDS."""

    def __init__(self, on_beat: Callable[[], object], *, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self._on_beat = on_beat
        self._clock = clock
        self._late_at = math.inf
        """When the batch that runs will be late; only the run loop writes it."""

    def work(self, expected_ms: float) -> None:
        """A batch begins."""
        self._late_at = self._clock() + LATENESS * expected_ms / 1000

    def rest(self) -> None:
        """It has ended."""
        self._late_at = math.inf

    def beat(self) -> None:
        """Beat, unless the batch that runs is late."""
        if self._clock() <= self._late_at:
            self._on_beat()
