"""Looks, from time to time, at whether a request that is awaited or under way goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from embedway.api.http_limits import LEAST_BYTES_PER_SECOND


class ReceiveTimer:
    """One a connection. It goes on as long as a body does, and says when nothing came of it, or too little."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, timeout: float, on_stall: Callable[[], object]) -> None:
        """`timeout`: seconds between two looks. `on_stall` is called once the timer has stopped."""
        self._loop = loop
        self._timeout = timeout
        self._on_stall = on_stall
        self._handle: asyncio.TimerHandle | None = None
        self.body_bytes = 0
        """Of the body that is being received. Written by the protocol"""
        self._body_bytes_before = 0
        """When the timer was set"""

    @property
    def is_running(self) -> bool:
        return self._handle is not None

    def start(self) -> None:
        """Also anew."""
        self.stop()
        self._body_bytes_before = self.body_bytes
        self._handle = self._loop.call_later(self._timeout, self._look)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def close(self) -> None:
        """Stop for good, and let go of whom it would tell: he has this timer, and neither would be freed."""
        self.stop()
        self._on_stall = _nobody_is_told

    def _look(self) -> None:
        self._handle = None
        if self.body_bytes - self._body_bytes_before >= self._timeout * LEAST_BYTES_PER_SECOND:
            self.start()
        else:
            self._on_stall()


def _nobody_is_told() -> None:
    """The connection has ended."""
