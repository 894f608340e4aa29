"""Where a request's time goes: one stage after the other, each measured once, for the metrics and for the trace."""

from __future__ import annotations

import time
from typing import Literal, TypeAlias, get_args

Stage: TypeAlias = Literal["parse", "media", "tokenize", "queue", "compute", "encode"]
STAGES: tuple[Stage, ...] = get_args(Stage)


class StageClock:
    """Of one request. Its moments are those of `time.perf_counter`, in seconds. A query pays about a microsecond."""

    __slots__ = ("_began", "_stage", "stages")

    def __init__(self) -> None:
        self.stages: list[tuple[Stage, float, float]] = []
        """Those that have ended: each with its beginning and end"""
        self._stage: Stage | None = None
        self._began = 0.0

    def begin(self, stage: Stage) -> None:
        """The stage before, if there is one, ends now."""
        now = time.perf_counter()
        if self._stage is not None:
            self.stages.append((self._stage, self._began, now))
        self._stage, self._began = stage, now

    def end(self) -> None:
        """No stage goes on: somebody else is waited for, or the request is over."""
        if self._stage is not None:
            self.stages.append((self._stage, self._began, time.perf_counter()))
            self._stage = None

    def answered(self, queue_seconds: float, compute_seconds: float) -> None:
        """The engine's answer has come just now, and says how long it took."""
        now = time.perf_counter()
        computing = now - compute_seconds
        self.stages += (("queue", computing - queue_seconds, computing), ("compute", computing, now))
