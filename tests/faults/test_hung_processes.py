"""A process that hangs, serving or starting, is killed and replaced; what it has not to do with goes on."""

from __future__ import annotations

import asyncio
import logging
import os
import signal

import httpx
import pytest

from embedway.child_process import ChildFailed
from embedway.engine.client import EngineClient
from embedway.engine.slot import Patience
from embedway.engine.supervisor import Supervisor
from fake_supervisor import engine_config, engine_slot, running, until_ready
from running_server import RunningServer

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
API = "embedway.api.server"


async def test_an_api_process_that_is_stopped_is_replaced_while_the_other_one_serves() -> None:
    with RunningServer("--api-workers", "2", "--watchdog-timeout", "3") as server:
        stopped, other = server.children(API)
        stopped.suspend()
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            while stopped.is_running():
                answer = await client.post("/v1/embeddings", json={"model": MODEL, "input": "a"})
                assert answer.status_code == 200
            while len(pids := {child.pid for child in server.children(API)}) < 2:
                await asyncio.sleep(0.01)
            assert other.pid in pids
            assert (await client.post("/v1/embeddings", json={"model": MODEL, "input": "a"})).status_code == 200
        assert "hangs: no progress for 3 s" in "".join(server.log)


async def test_an_engine_that_hangs_while_it_loads_ends_the_start_with_the_flag_s_name(address: str) -> None:
    slot = engine_slot(engine_config(address, dtype="hang"), Patience(starting=0.5))
    with pytest.raises(ChildFailed, match=r"engine 0 was not ready within 0\.5 s \(--startup-timeout\)"):
        await asyncio.wait_for(Supervisor([slot], sockets=[], drain_timeout=5).run(lambda facts: None), 60)


async def test_engines_that_hang_while_they_load_again_and_again_are_a_crash_loop(
    address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("embedway.engine.supervisor.MAX_QUICK_DEATHS", 2)
    slot = engine_slot(engine_config(address), restart=engine_config(address, dtype="hang"))
    async with running(Supervisor([slot], sockets=[], drain_timeout=5)) as task, EngineClient([address]) as client:
        pid = await until_ready(client)
        slot.patience = Patience(starting=0.5)
        os.kill(pid, signal.SIGKILL)
        assert await asyncio.wait_for(task, 60) == 3
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert sum("does not start: engine 0 was not ready within 0.5 s" in line for line in said) == 2


async def test_a_successor_that_hangs_while_it_loads_ends_a_rolling_restart_and_the_old_engine_stays(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    slot = engine_slot(engine_config(address), restart=engine_config(address, dtype="hang"))
    async with running(Supervisor([slot], sockets=[], drain_timeout=5)), EngineClient([address]) as client:
        pid = await until_ready(client)
        slot.patience = Patience(starting=0.5)
        os.kill(os.getpid(), signal.SIGHUP)

        async def until_given_up() -> None:
            while "the rolling restart ends here" not in caplog.text:
                await asyncio.sleep(0.01)

        await asyncio.wait_for(until_given_up(), 60)
        assert await until_ready(client) == pid
