"""What an API process makes of the supervisor's answers, and who may ask."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import httpx
import pytest

from embedway.api import engine_restarts
from embedway.api.engine_restarts import EngineRestarts
from embedway.child_process import RESTART_BEGUN, RESTART_ENGINES, RESTART_RUNS
from embedway.errors import EngineNotReady, RestartInProgress, ShuttingDown

Connect = Callable[..., contextlib.AbstractAsyncContextManager[httpx.AsyncClient]]


class Supervisor:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def hear(self, word: str) -> bool:
        self.heard.append(word)
        return True


async def test_nothing_is_said_to_a_supervisor_that_waits_for_the_first_start() -> None:
    supervisor = Supervisor()
    with pytest.raises(EngineNotReady):
        await EngineRestarts(supervisor.hear, lambda: False).begin()
    assert supervisor.heard == []


async def test_each_caller_gets_the_answer_to_its_own_word() -> None:
    supervisor = Supervisor()
    restarts = EngineRestarts(supervisor.hear)
    first, gone, last = (asyncio.create_task(restarts.begin()) for _ in range(3))
    await asyncio.sleep(0)
    assert supervisor.heard == [RESTART_ENGINES] * 3
    gone.cancel()
    for word in (RESTART_RUNS, RESTART_BEGUN, RESTART_BEGUN):
        restarts.on_word(word)
    with pytest.raises(RestartInProgress):
        await first
    await last


async def test_a_supervisor_that_is_silent_or_cannot_be_told_is_shutting_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_restarts, "ANSWER_SECONDS", 0.01)
    for restarts in (EngineRestarts(Supervisor().hear), EngineRestarts(lambda word: False)):
        with pytest.raises(ShuttingDown):
            await restarts.begin()


async def test_only_the_admin_may_restart_engines(connect: Connect) -> None:
    async with connect() as client:
        refused = await client.post("/restart_engines")
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "admin_only")
    async with connect(admin_api_key="admin") as client:
        assert (await client.post("/restart_engines")).status_code == 401
