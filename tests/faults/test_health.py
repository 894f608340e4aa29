"""What /livez, /readyz and /health say at each moment: a slow start, a restart, a crash loop.

The API process and the supervisor are the real ones; the engine has the fake model and waits at a gate as it loads.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from embedway.api_keys import ApiKeys
from embedway.config import Settings, load_settings
from embedway.engine.slot import Slot
from embedway.engine.supervisor import Supervisor, listen, runtime_folder
from embedway.fleet import Fleet
from embedway.model_spec import ModelSpec
from embedway.models.checkpoint import read_spec
from embedway.models.checkpoint_location import locate
from embedway.processes import api_slots, engine_address
from fake_supervisor import engine_config, engine_slot

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
RED, GREEN = 503, 200


@dataclass
class GatedServer:
    client: httpx.AsyncClient
    supervising: asyncio.Task[int]
    gate: Path
    """A pipe that an engine opens to read before it loads"""

    async def until_an_engine_waits(self) -> int:
        """Return the gate's other end."""
        return await asyncio.wait_for(asyncio.to_thread(os.open, self.gate, os.O_WRONLY), 60)

    async def open_the_gate(self, held: int) -> None:
        """Let the engine go on, and wait until it has: the next one to come to the gate is another."""
        with contextlib.suppress(BrokenPipeError):
            while True:
                os.write(held, b"\n")
                await asyncio.sleep(0.01)
        os.close(held)

    async def until(self, status: int) -> None:
        """Wait until /readyz has it."""

        async def poll() -> None:
            while (await self.client.get("/readyz")).status_code != status:
                await asyncio.sleep(0.01)

        await asyncio.wait_for(poll(), 60)

    async def check(self, status: int) -> None:
        """That all of the probes and the work agree."""
        assert (await self.client.get("/livez")).status_code == GREEN
        body = {"model": MODEL, "input": "a"}
        answers = [await self.client.get("/readyz"), await self.client.get("/health")]
        answers += [await self.client.get("/health_generate"), await self.client.post("/v1/embeddings", json=body)]
        assert [answer.status_code for answer in answers] == [status] * 4
        if status == RED:
            assert {answer.json()["error"]["code"] for answer in answers} == {"engine_not_ready"}
            assert all("Retry-After" in answer.headers for answer in answers)

    async def kill_the_engine(self) -> None:
        info = (await self.client.get("/server_info")).json()
        os.kill(info["engines"][0]["pid"], signal.SIGKILL)


@contextlib.asynccontextmanager
async def gated_server(restart_dtype: str) -> AsyncGenerator[GatedServer]:
    """Its engine's successors are told `restart_dtype`, which says what becomes of them."""
    settings = load_settings({"model_path": MODEL, "drain_delay": 0})
    with runtime_folder() as folder:
        gates: list[Path] = []

        def make_engines(settings: Settings, spec: ModelSpec, own: Path, runtime: Path, first: int) -> list[Slot]:
            del settings, spec, runtime, first
            address = engine_address(own, 0)
            gates.append(Path(f"{address}.gate"))
            os.mkfifo(gates[0])
            return [engine_slot(engine_config(address, "gated"), restart=engine_config(address, restart_dtype))]

        fleet = Fleet(settings, folder, make_engines=make_engines)
        spec = read_spec(locate(MODEL), name=MODEL)
        fleet.models.append(fleet.host(settings, spec, fleet.new_folder()))
        [gate] = gates
        with listen("127.0.0.1", 0) as listening:
            url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            fleet.serve_by(api_slots(settings, ApiKeys.of(settings), folder, listening.fileno()))
            slots = [*fleet.models[0].slots, *fleet.api_slots]
            fleet.supervisor = Supervisor(slots, [listening], 5, fleet.on_word, fleet.on_given_up)
            supervising = asyncio.create_task(fleet.supervisor.run(lambda facts: None))
            try:
                async with httpx.AsyncClient(base_url=url, timeout=60) as client:
                    yield GatedServer(client, supervising, gate)
            finally:
                if not supervising.done():
                    os.kill(os.getpid(), signal.SIGTERM)
                await asyncio.wait({supervising}, timeout=60)


async def test_probes_are_red_through_a_slow_start_and_a_restart_and_livez_is_green_all_the_while() -> None:
    async with gated_server("gated") as server:
        held = await server.until_an_engine_waits()
        await server.check(RED)
        await server.open_the_gate(held)
        await server.until(GREEN)
        await server.check(GREEN)
        await server.kill_the_engine()
        held = await server.until_an_engine_waits()  # after the back-off
        await server.check(RED)
        await server.open_the_gate(held)
        await server.until(GREEN)
        await server.check(GREEN)


async def test_a_crash_loop_is_red_until_it_ends_the_server_with_a_status_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("embedway.engine.supervisor.MAX_QUICK_DEATHS", 3)
    async with gated_server("die at the gate") as server:
        await server.open_the_gate(await server.until_an_engine_waits())
        await server.until(GREEN)
        await server.kill_the_engine()
        for _ in range(3):
            held = await server.until_an_engine_waits()
            await server.check(RED)
            await server.open_the_gate(held)
        assert await asyncio.wait_for(server.supervising, 60) == 3
        with pytest.raises(httpx.TransportError):
            await server.client.get("/livez")
