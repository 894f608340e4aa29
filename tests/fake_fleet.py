"""Several models in one server: the real supervisor, API processes and orders, over engines with the fake model."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

import fake_engine
from embedway.api_keys import ApiKeys
from embedway.config import Settings, load_settings
from embedway.engine.slot import Slot, child_slot
from embedway.engine.supervisor import Supervisor, listen, runtime_folder
from embedway.fleet import Fleet
from embedway.model_settings import models_of, names_of
from embedway.model_spec import ModelSpec
from embedway.models.checkpoint import read_spec
from embedway.models.checkpoint_location import locate
from embedway.processes import api_slots, engine_address, engine_slots
from fake_supervisor import engine_config

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
"""Whose tokenizer all of the models have"""
ADMIN = {"Authorization": "Bearer secret"}


@dataclass
class FakeFleet:
    client: httpx.AsyncClient
    fleet: Fleet
    running: asyncio.Task[int]

    async def embed(self, model: str, text: str = "hello", **fields: Any) -> httpx.Response:
        return await self.client.post("/v1/embeddings", json={"model": model, "input": text, **fields})

    async def order(self, route: str, **body: Any) -> httpx.Response:
        return await self.client.post(route, json=body, headers=ADMIN)

    def pids(self, model: str) -> list[int]:
        """Of its engines."""
        [hosted] = [one for one in self.fleet.models if one.name == model]
        return [slot.child.pid for slot in hosted.slots if slot.child is not None]

    async def until(self, condition: Callable[[], Any]) -> None:
        """`condition` may return an awaitable."""

        async def poll() -> None:
            while True:
                held = condition()
                if await held if asyncio.iscoroutine(held) else held:
                    return
                await asyncio.sleep(0.01)

        await asyncio.wait_for(poll(), 60)


@contextlib.asynccontextmanager
async def fake_fleet(*names: str, kinds: Mapping[str, str] | None = None, **given: Any) -> AsyncGenerator[FakeFleet]:
    """A server of models with these names, once it is ready, and a client.

    `kinds` has the `dtype` that a model's engines get in the place of float32: see `fake_engine.load`.
    """

    def make_engines(settings: Settings, spec: ModelSpec, own: Path, runtime: Path, first: int) -> list[Slot]:
        real = engine_slots(settings, spec, own, runtime, first)
        dtype = (kinds or {}).get(names_of(settings)[0], "float32")
        return [fake_slot(slot, engine_address(own, i), dtype) for i, slot in enumerate(real)]

    settings = load_settings(
        {
            "models": [{"model_path": MODEL, "served_model_name": [name]} for name in names],
            "drain_delay": 0,
            "drain_timeout": 10,
            "admin_api_key": "secret",
            **given,
        }
    )
    spec = read_spec(locate(MODEL), name=MODEL)
    with runtime_folder() as runtime, listen("127.0.0.1", 0) as listening:
        fleet = Fleet(settings, runtime, make_engines=make_engines)
        fleet.models += [fleet.host(model, spec, fleet.new_folder()) for model in models_of(settings)]
        fleet.serve_by(api_slots(settings, ApiKeys.of(settings), runtime, listening.fileno()))
        slots = [*(slot for model in fleet.models for slot in model.slots), *fleet.api_slots]
        fleet.supervisor = Supervisor(slots, [listening], 5, fleet.on_word, fleet.on_given_up)
        is_ready = asyncio.Event()
        running = asyncio.create_task(fleet.supervisor.run(lambda facts: is_ready.set()))
        await asyncio.wait({running, asyncio.create_task(is_ready.wait())}, return_when=asyncio.FIRST_COMPLETED)
        try:
            assert await fleet.adopted() is None
            url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            async with httpx.AsyncClient(base_url=url, timeout=60) as client:
                yield FakeFleet(client, fleet, running)
        finally:
            if not running.done():
                os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.wait({running}, timeout=60)


def fake_slot(real: Slot, address: str, dtype: str) -> Slot:
    config = engine_config(address, dtype)
    return child_slot(real.name, fake_engine.__name__, config, group=real.group)
