"""One of several models fails, comes and goes: the others answer all the while. Real processes, the fake model."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx
import pytest

from embedway.engine import supervisor
from fake_fleet import MODEL, FakeFleet, fake_fleet
from fake_model import DIMENSION, write_fake_adapter


@contextlib.asynccontextmanager
async def asked_all_the_while(fleet: FakeFleet, model: str) -> AsyncGenerator[None]:
    """Each of the requests to the model, one after another until the block ends, is answered."""
    answers: list[httpx.Response] = []

    async def keep_asking() -> None:
        while True:
            answers.append(await fleet.embed(model, f"hello {len(answers)}"))

    asking = asyncio.create_task(keep_asking())
    try:
        yield
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    assert answers
    assert {answer.status_code for answer in answers} == {200}
    assert not isinstance(asking.exception() if not asking.cancelled() else None, Exception)


async def test_a_model_whose_engine_dies_again_and_again_is_unavailable_and_the_other_is_served_all_the_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor, "MAX_QUICK_DEATHS", 2)
    async with fake_fleet("good", "bad") as fleet:
        kept = fleet.pids("good")
        async with asked_all_the_while(fleet, "good"):
            killed: set[int] = set()
            while fleet.fleet.models[1].config.failure is None:
                for pid in set(fleet.pids("bad")) - killed:
                    os.kill(pid, signal.SIGKILL)
                    killed.add(pid)
                await asyncio.sleep(0.01)
            await fleet.until(lambda: is_refused(fleet))
        assert len(killed) == 3
        assert fleet.pids("good") == kept
        refused = await fleet.embed("bad")
        error = refused.json()["error"]
        assert (refused.status_code, error["code"], error["type"]) == (503, "model_unavailable", "server_error")
        assert error["message"].startswith("The model 'bad' is unavailable: engine 1 was ended by SIGKILL")
        assert refused.headers["x-should-retry"] == "false"
        listed = (await fleet.client.get("/v1/models")).json()["data"]
        assert {card["id"]: card["status"] for card in listed} == {"good": "ready", "bad": "unavailable"}
        health = await fleet.client.get("/health")
        assert (health.status_code, health.json()) == (
            200,
            {"status": "degraded", "models": {"good": "ready", "bad": "unavailable"}},
        )
        assert (await fleet.client.get("/readyz?model=good")).json() == {"status": "ready"}
        assert (await fleet.client.get("/readyz?model=bad")).status_code == 503
        assert (await fleet.client.get("/health_generate?model=bad")).status_code == 503
        [_, summary] = (await fleet.client.get("/server_info")).json()["models"]
        assert (summary["names"], summary["status"]) == (["bad"], "unavailable")
        assert not fleet.running.done()

        assert (await fleet.order("/restart_engines?model=bad")).status_code == 202
        await fleet.until(lambda: is_ready(fleet, "bad"))
        assert (await fleet.embed("bad")).status_code == 200
        assert (await fleet.client.get("/health")).json() == {"status": "ready"}


async def is_refused(fleet: FakeFleet) -> bool:
    return (await fleet.embed("bad")).json()["error"]["code"] == "model_unavailable"


async def is_ready(fleet: FakeFleet, model: str) -> bool:
    return (await fleet.client.get(f"/readyz?model={model}")).status_code == 200


async def test_models_come_and_go_while_another_is_served(tmp_path: Path) -> None:
    """Each has its own adapters. One that does not start is refused with its reason, and leaves nothing behind."""
    adapter = str(write_fake_adapter(tmp_path / "adapter", "text one"))
    async with fake_fleet("first", api_workers=2, kinds={"refused": "refuse"}) as fleet:
        settings = {"served_model_name": ["late"]}
        async with asked_all_the_while(fleet, "first"):
            loads = [fleet.order("/load_model", model=MODEL, alias="an alias", settings=settings) for _ in range(2)]
            answers = sorted(await asyncio.gather(*loads), key=lambda answer: answer.status_code)
            assert [answer.status_code for answer in answers] == [200, 409]
            assert answers[0].json()["model"]["id"] == "late"
            assert answers[1].json()["error"]["code"] == "model_conflict"
            for name in ("late", "an alias"):
                for answer in await each_api_process(fleet, name):
                    assert len(answer.json()["data"][0]["embedding"]) == DIMENSION
            loaded = await fleet.order("/load_lora_adapter", lora_name="one", lora_path=adapter, model="an alias")
            assert loaded.json()["loaded_adapters"] == {"one": adapter}
            plain, adapted = [(await fleet.embed(name)).json()["data"][0]["embedding"] for name in ("late", "late:one")]
            assert plain != adapted
            assert (await fleet.embed("first:one")).json()["error"]["code"] == "adapter_not_found"
            unloaded = await fleet.order("/unload_model", model="an alias")
            assert (unloaded.status_code, unloaded.json()["names"]) == (200, ["late", "an alias"])
            for answer in await each_api_process(fleet, "late"):
                assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
                assert "Served: first." in answer.json()["error"]["message"]
            assert (await fleet.order("/load_model", model=MODEL, settings=settings)).status_code == 200
            answer = await fleet.order("/load_model", model=MODEL, settings={"served_model_name": ["refused"]})
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["param"]) == (400, "model_refused", "model")
            assert "the test says so" in error["message"]
        assert [model.name for model in fleet.fleet.models] == ["first", "late"]
        assert len(list(fleet.fleet.runtime.glob("model-*"))) == 2
        assert {slot.name for slot in fleet.fleet.supervisor.slots if not slot.drains} == {"engine 0", "engine 1"}
        assert [slot.name for slot in fleet.fleet.models[1].slots] == ["engine 1"]  # its metrics are the first one's

        assert (await fleet.order("/unload_model", model="first")).status_code == 200
        default = await fleet.client.post("/encode", json={"text": "a"})
        assert default.status_code == 200
        last = await fleet.order("/unload_model", model="late")
        assert (last.status_code, last.json()["error"]["code"]) == (409, "model_conflict")
        assert "is the only one" in last.json()["error"]["message"]


async def each_api_process(fleet: FakeFleet, model: str) -> list[httpx.Response]:
    """Over so many connections that either takes one."""
    answers = []
    for _ in range(8):
        async with httpx.AsyncClient(base_url=fleet.client.base_url, timeout=60) as client:
            answers.append(await client.post("/v1/embeddings", json={"model": model, "input": "hello"}))
    return answers
