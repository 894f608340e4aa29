"""A request ends in its vectors or in one clear error, whatever becomes of the engine and of the server around it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import httpx
import pytest

from running_server import RunningServer
from server_under_load import loaded, queued

MODEL = "sentence-transformers/all-MiniLM-L6-v2"


async def test_a_service_manager_may_signal_all_processes_at_once() -> None:
    with RunningServer() as server:
        async with loaded(server, 10) as tasks:
            children = [*server.children("embedway.engine.loop"), *server.children("embedway.api.server")]
            for pid in (server.process.pid, *(child.pid for child in children)):
                os.kill(pid, signal.SIGTERM)
            answers = await asyncio.gather(*tasks)
        assert [answer.status_code for answer in answers] == [200] * 10
        assert server.process.wait(60) == 0


async def test_an_engine_that_dies_during_the_drain_is_replaced() -> None:
    with RunningServer() as server:
        [engine] = server.children("embedway.engine.loop")
        async with loaded(server, 10) as tasks:
            server.process.send_signal(signal.SIGTERM)
            engine.kill()
            answers = await asyncio.gather(*tasks)
        assert [answer.status_code for answer in answers] == [200] * 10
        assert server.process.wait(60) == 0


async def test_what_the_drain_timeout_cuts_off_gets_an_error_and_no_silence() -> None:
    with RunningServer("--drain-timeout", "0.2") as server:
        async with loaded(server, 40) as tasks:
            server.process.send_signal(signal.SIGTERM)
            answers = await asyncio.gather(*tasks)
        statuses = [answer.status_code for answer in answers]
        assert set(statuses) <= {200, 503}
        refused = [answer.json()["error"]["code"] for answer in answers if answer.status_code == 503]
        assert refused
        assert set(refused) == {"shutting_down"}


async def test_an_engine_that_hangs_turns_health_red_and_gives_its_requests_back_when_it_wakes() -> None:
    with RunningServer() as server:
        [engine] = server.children("embedway.engine.loop")
        async with loaded(server, 4) as tasks, httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            engine.suspend()
            while (await client.get("/health")).status_code == 200:
                await asyncio.sleep(0.1)
            refused = await client.post("/v1/embeddings", json={"model": MODEL, "input": "a"})
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_not_ready")
            assert (await client.get("/livez")).status_code == 200
            engine.resume()
            answers = await asyncio.gather(*tasks)
        assert [answer.status_code for answer in answers] == [200] * 4


async def test_clients_that_go_away_leave_nothing_in_the_queue() -> None:
    with RunningServer() as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as observer:
            async with loaded(server, 20) as tasks:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            while await queued(observer) > 0:
                await asyncio.sleep(0.01)
            answer = await observer.post("/v1/embeddings", json={"model": MODEL, "input": "still here"})
            assert answer.status_code == 200
        assert "Traceback" not in "".join(server.log)


async def test_a_hundred_clients_at_once_all_get_their_answers(minilm_url: str) -> None:
    limits = httpx.Limits(max_connections=100)
    async with httpx.AsyncClient(base_url=minilm_url, timeout=120, limits=limits) as client:
        bodies = [{"model": MODEL, "input": f"text number {i}"} for i in range(300)]
        answers = await asyncio.gather(*(client.post("/v1/embeddings", json=body) for body in bodies))
        assert [answer.status_code for answer in answers] == [200] * 300


@pytest.fixture(scope="module")
def minilm_url() -> Iterator[str]:
    with RunningServer() as server:
        yield server.url
