"""Requests that lost their engine, and wait for another.

Those that it was computing are suspects: one of them may be what ended it. They are sent again one at a time: an engine
that is lost to a request once more takes no other suspect with it. The rest are sent again at once. Neither holds up
requests that are new meanwhile.
"""

from __future__ import annotations

import asyncio
import bisect
from collections import deque
from collections.abc import Callable

from embedway.engine.in_flight import Pending
from embedway.errors import EngineLost

RESCUE_SECONDS = 120.0
"""Without any engine they wait this long for one: a watchdog's patience and a start."""


class Orphans:
    """Belongs to one event loop."""

    def __init__(self, dispatch: Callable[[Pending], bool]) -> None:
        """`dispatch` sends a request to an engine; it says whether there is one."""
        self._dispatch = dispatch
        self._suspects: list[Pending] = []
        """Larger priorities first"""
        self._others: deque[Pending] = deque()
        self._sent: Pending | None = None
        """The suspect that an engine has"""
        self._patience: asyncio.TimerHandle | None = None
        """Runs while there is no engine"""

    def take(self, pending: Pending) -> None:
        """Keep it until it is its turn; it ends in EngineLost where no engine comes for RESCUE_SECONDS."""
        if pending is self._sent:
            self._sent = None
        if pending.is_suspect:
            bisect.insort(self._suspects, pending, key=lambda other: -other.terms.priority)
        else:
            self._others.append(pending)
        self._mind(has_engine=False)

    def send_next(self) -> None:
        """Send those whose turn it is, if there is an engine."""
        self._mind(has_engine=self._send_all())

    def _send_all(self) -> bool:
        """False where there was no engine for one of them."""
        while self._others:
            if not self._send(self._others[0]):
                return False
            self._others.popleft()
        while self._suspects and (self._sent is None or self._sent.future.done()):
            if not self._send(self._suspects[0]):
                return False
            self._sent = self._suspects.pop(0)
            self._sent.future.add_done_callback(lambda _: self.send_next())
        return True

    def _send(self, pending: Pending) -> bool:
        """False where there is no engine."""
        return pending.future.done() or self._dispatch(pending)  # done: nobody waits for it any more

    def _mind(self, *, has_engine: bool) -> None:
        """Patience runs while some wait without an engine."""
        if has_engine or not (self._others or self._suspects):
            if self._patience is not None:
                self._patience.cancel()
                self._patience = None
        elif self._patience is None:
            self._patience = asyncio.get_running_loop().call_later(RESCUE_SECONDS, self.give_up)

    def give_up(self) -> None:
        """No engine is to come: all that wait end in EngineLost."""
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        for pending in (*self._others, *self._suspects):
            pending.reject(EngineLost())
        self._others.clear()
        self._suspects.clear()
