"""The API process's end of orders to the supervisor: to load, unload or restart a model."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

from embedway.errors import EngineNotReady, InvalidValue, ShuttingDown
from embedway.supervisor_words import LONGEST_ORDER, LoadModel, Order, OrderEnd, RestartEngines, UnloadModel, word_of

RESTART_SECONDS = 10.0
"""A supervisor that has not begun a restart by then is busy with its end."""


def no_supervisor(word: str) -> bool:
    """In its place where an application runs without one."""
    del word
    return False


class SupervisorOrders:
    """Belongs to one event loop."""

    def __init__(
        self, tell: Callable[[str], bool] = no_supervisor, is_heard: Callable[[], bool] = lambda: True
    ) -> None:
        """`tell` sends the supervisor a word; False where that cannot be, as without one. `is_heard` says whether it
        listens to words already.
        """
        self._tell = tell
        self._is_heard = is_heard
        self._ids = itertools.count()
        self._asked: dict[int, asyncio.Future[OrderEnd]] = {}

    async def load(self, settings: dict[str, Any]) -> None:
        """Return once all API processes serve the model. Raises ModelRefused, ModelConflict, or what `_give` does."""
        await self._give(LoadModel(next(self._ids), settings))

    async def unload(self, model: str) -> None:
        """Return once its requests have been answered and its engines ended. Raises ModelConflict, or as `_give`."""
        await self._give(UnloadModel(next(self._ids), model))

    async def restart(self, model: str) -> None:
        """Return once its engines are being replaced. Raises RestartInProgress, ModelConflict, or as `_give`."""
        await self._give(RestartEngines(next(self._ids), model), RESTART_SECONDS)

    def on_end(self, end: OrderEnd) -> None:
        """The supervisor has carried out an order, or has not."""
        answer = self._asked.pop(end.id, None)
        if answer is not None and not answer.done():  # somebody still waits for it
            answer.set_result(end)

    async def _give(self, order: Order, patience: float | None = None) -> None:
        """Raises EngineNotReady before the first start has ended, InvalidValue for what is too long, ShuttingDown, or
        what the supervisor says.
        """
        word = word_of(order)
        if len(word.encode()) > LONGEST_ORDER:
            raise InvalidValue(param="settings", problem=f"and the names are longer than {LONGEST_ORDER} bytes of JSON")
        if not self._is_heard():
            raise EngineNotReady(state="it is starting")
        if not self._tell(word):
            raise ShuttingDown
        answer: asyncio.Future[OrderEnd] = asyncio.get_running_loop().create_future()
        self._asked[order.id] = answer
        try:
            end = await asyncio.wait_for(answer, patience)
        except asyncio.TimeoutError as error:
            raise ShuttingDown from error
        finally:
            self._asked.pop(order.id, None)
        end.raise_error()
