"""A request ends in its vectors or in one clear error, whatever becomes of the engine and of the server around it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
from collections.abc import Iterator

import httpx
import psutil
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
    """What it had of them it forgets: they are not computed twice."""
    with RunningServer("--cache-mb", "0") as server:
        [engine] = server.children("embedway.engine.loop")
        async with loaded(server, 12) as tasks, httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            engine.suspend()
            while (await client.get("/health")).status_code == 200:
                await asyncio.sleep(0.1)
            refused = await client.post("/v1/embeddings", json={"model": MODEL, "input": "a"})
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_not_ready")
            assert (await client.get("/livez")).status_code == 200
            engine.resume()
            answers = await asyncio.gather(*tasks)
            [status] = (await client.get("/server_info")).json()["engines"]
        assert [answer.status_code for answer in answers] == [200] * 12
        asked = sum(answer.json()["usage"]["total_tokens"] for answer in answers)
        assert status["tokens"] < 1.5 * asked


async def test_an_engine_without_memory_costs_requests_one_clear_error_each_and_the_server_goes_on() -> None:
    """Its address space is closed under it: whatever asks for more, Python or the native library, is refused."""
    with RunningServer("--dtype", "float32", "--max-queued-tokens", "200000") as server:  # whatever the machine can do
        [engine] = server.children("embedway.engine.loop")
        used = engine.memory_info().vms
        async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
            engine.rlimit(resource.RLIMIT_AS, (used, used))
            body = {"model": MODEL, "input": ["some text " * 100] * 64}
            answers = await asyncio.gather(*(client.post("/v1/embeddings", json=body) for _ in range(4)))
            codes = {answer.json()["error"]["code"] for answer in answers if answer.status_code != 200}
            assert codes <= {"item_failed", "engine_lost", "engine_crashed", "engine_not_ready"}
            with contextlib.suppress(psutil.NoSuchProcess):
                engine.kill()  # where it has lived through that
            while engine.is_running():
                await asyncio.sleep(0.01)
            again = {"model": MODEL, "input": "still here"}
            while (answer := await client.post("/v1/embeddings", json=again)).status_code != 200:
                assert answer.json()["error"]["code"] == "engine_not_ready"  # until its successor is there
                await asyncio.sleep(0.01)


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
