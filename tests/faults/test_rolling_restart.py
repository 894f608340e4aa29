"""SIGHUP gives every engine a successor while requests come all the time: real processes, the fake model."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from embedway.engine import rolling_restart
from embedway.engine.client import EngineClient
from embedway.engine.supervisor import Supervisor
from fake_model import FakeAdapter, fake_vector, write_fake_adapter
from fake_supervisor import engine_config, engine_slot, running, until_ready
from running_engine import packed
from running_server import RunningServer

MODEL = "sentence-transformers/all-MiniLM-L6-v2"


class Traffic:
    """Requests that come one after another, whatever became of those before, until the block ends; each is checked."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client
        self._asked: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Traffic:
        self._coming = asyncio.create_task(self._come())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._coming.cancel()
        await asyncio.wait_for(asyncio.gather(*self._asked), 60)
        assert self._asked

    async def _come(self) -> None:
        while True:
            self._asked.append(asyncio.create_task(self._ask(len(self._asked))))
            await asyncio.sleep(0.002)

    async def _ask(self, number: int) -> None:
        ids = [number % 600 + 1, number // 600 + 1]  # short of the ids at which the model fails
        result = await self._client.embed(packed(ids))
        np.testing.assert_array_equal(result.vectors, [fake_vector(ids)])


def supervisor_of(addresses: list[str]) -> Supervisor:
    return Supervisor([engine_slot(engine_config(address)) for address in addresses], sockets=[], drain_timeout=5)


async def until_replaced(client: EngineClient, pids: list[int]) -> list[int]:
    """Wait until every replica has another process id; return the new ones."""
    return [await until_ready(client, but_not=pid, replica=i) for i, pid in enumerate(pids)]


@pytest.mark.parametrize("num_replicas", [1, 2])
async def test_a_rolling_restart_loses_and_refuses_no_request(tmp_path: Path, num_replicas: int) -> None:
    addresses = [f"{tmp_path}/engine-{i}.sock" for i in range(num_replicas)]
    async with running(supervisor_of(addresses)), EngineClient(addresses) as client:
        pids = await until_replaced(client, [0] * num_replicas)
        async with Traffic(client):
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGHUP)
                replaced = await until_replaced(client, pids)
                await asyncio.wait_for(until_gone(pids), 30)
                pids = replaced


async def test_without_memory_for_two_what_an_engine_had_is_sent_to_its_successor(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rolling_restart, "has_room_for_another", lambda pid: False)
    async with running(supervisor_of([address])), EngineClient([address]) as client:
        first = await until_ready(client)
        os.kill(first, signal.SIGSTOP)  # it has not answered when its time is over
        future = client.submit(packed([1, 2]))
        os.kill(os.getpid(), signal.SIGHUP)
        result = await asyncio.wait_for(future, 30)
        np.testing.assert_array_equal(result.vectors, [fake_vector([1, 2])])
        assert await until_ready(client) != first


async def test_an_adapter_that_was_loaded_is_there_again_on_use(address: str, tmp_path: Path) -> None:
    async with running(supervisor_of([address])), EngineClient([address]) as client:
        first = await until_ready(client)
        ref = await client.load_adapter("one", str(write_fake_adapter(tmp_path / "one", "text one")))
        os.kill(os.getpid(), signal.SIGHUP)
        await until_ready(client, but_not=first)
        result = await client.embed(packed([1], adapters=[ref]))
        np.testing.assert_array_equal(result.vectors, [fake_vector([1]) + FakeAdapter.of("text one").shift])


async def test_a_successor_that_does_not_start_changes_nothing(address: str, caplog: pytest.LogCaptureFixture) -> None:
    slot = engine_slot(engine_config(address), restart=engine_config(address, dtype="refuse"))
    async with running(Supervisor([slot], sockets=[], drain_timeout=5)), EngineClient([address]) as client:
        first = await until_ready(client)
        os.kill(os.getpid(), signal.SIGHUP)
        while "the test says so" not in caplog.text:
            await asyncio.sleep(0.01)
        assert await until_ready(client) == first
        np.testing.assert_array_equal((await client.embed(packed([5]))).vectors, [fake_vector([5])])


async def until_gone(pids: list[int]) -> None:
    for pid in pids:
        while psutil.pid_exists(pid):
            await asyncio.sleep(0.01)


async def test_an_operator_restarts_all_engines_over_http_and_no_request_is_lost() -> None:
    with RunningServer("--replicas", "2", "--admin-api-key", "secret") as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:

            async def pids() -> set[int]:
                engines = (await client.get("/server_info")).json()["engines"]
                return {engine["pid"] for engine in engines if engine}

            async def restart() -> httpx.Response:
                return await client.post("/restart_engines", headers={"Authorization": "Bearer secret"})

            before = await pids()
            begun, again = await asyncio.gather(restart(), restart())
            assert {begun.status_code, again.status_code} == {202, 409}
            assert "restart_in_progress" in begun.text + again.text
            while (await pids()) & before or len(await pids()) < 2:
                answer = await client.post("/v1/embeddings", json={"model": MODEL, "input": "a"})
                assert answer.status_code == 200
        await asyncio.wait_for(until_gone([*before]), 60)
