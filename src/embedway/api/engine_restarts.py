"""The API process's end of a rolling restart: it asks the supervisor, who answers whether it has begun one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from embedway.child_process import RESTART_BEGUN, RESTART_ENGINES, RESTART_RUNS
from embedway.errors import EngineNotReady, RestartInProgress, ShuttingDown

ANSWER_SECONDS = 10.0
"""A supervisor that is silent for longer is busy with its end."""


def no_supervisor(word: str) -> bool:
    """In its place where an application runs without one."""
    del word
    return False


class EngineRestarts:
    """Belongs to one event loop."""

    def __init__(
        self, tell: Callable[[str], bool] = no_supervisor, is_heard: Callable[[], bool] = lambda: True
    ) -> None:
        """`tell` sends the supervisor a word; False where that cannot be, as without one. `is_heard` says whether it
        listens to words already.
        """
        self._tell = tell
        self._is_heard = is_heard
        self._asked: deque[asyncio.Future[bool]] = deque()
        """In the order of the answers that will come"""

    async def begin(self) -> None:
        """Return once a rolling restart has begun.

        Raises RestartInProgress where one runs, EngineNotReady before the first start has ended, or ShuttingDown.
        """
        if not self._is_heard():
            raise EngineNotReady(state="it is starting")
        if not self._tell(RESTART_ENGINES):
            raise ShuttingDown
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._asked.append(answer)
        try:
            has_begun = await asyncio.wait_for(answer, ANSWER_SECONDS)
        except asyncio.TimeoutError as error:
            raise ShuttingDown from error
        if not has_begun:
            raise RestartInProgress

    def on_word(self, word: str) -> None:
        """The supervisor has said something."""
        if word in (RESTART_BEGUN, RESTART_RUNS) and self._asked:
            answer = self._asked.popleft()
            if not answer.done():  # somebody still waits for it
                answer.set_result(word == RESTART_BEGUN)
