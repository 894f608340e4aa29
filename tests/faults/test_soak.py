"""Everything at once: mixed traffic, bad bodies, adapters that come and go and clients that leave, while engines are
killed, stopped and replaced.

Some seconds in the suite; `make soak SOAK_SECONDS=3600` runs it for long.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from peft import LoraConfig

from embedway.models.checkpoint import read_spec
from embedway.models.checkpoint_location import locate
from ledger import Ledger, Vectors, vectors_of
from peft_folders import peft_folder
from resident_memory import MemoryLog, growth
from running_server import RunningServer

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
SECONDS = float(os.environ.get("SOAK_SECONDS", "8"))
HARM_SECONDS = max(2.0, SECONDS / 60)
"""Between two harms; longer in a long run, so that an engine's memory has time to grow"""
GROWTH = 1.05
"""Of each role's memory, from the second sixth of the time to the last"""
SLACK_BYTES = 24 << 20 if SECONDS < 300 else 0
"""What a short run's allocators, and engines of which one is missing, may add to that"""
ADMIN = {"Authorization": "Bearer secret"}
QUERIES = [f"what is the {word} of number {i}" for i in range(12) for word in ("colour", "price", "history")]
BULK = [f"document {i}: {'some text on the matter ' * (i % 9)}" for i in range(32)]
BAD_BODIES: list[tuple[bytes, str]] = [
    (b"{", "invalid_json"),
    (b'{"model": "%s"}' % MODEL.encode(), "missing_field"),
    (b'{"model": "%s", "input": ""}' % MODEL.encode(), "empty_input"),
    (b'{"model": "%s", "input": [[99999999]]}' % MODEL.encode(), "invalid_token_id"),
    (b'{"model": "nobody", "input": "a"}', "model_not_found"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter's."""
    base = read_spec(locate(MODEL), name=MODEL).folder
    return peft_folder(base, tmp_path_factory.mktemp("adapters") / "one", LoraConfig(r=4), strength=0.5)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[RunningServer]:
    flags = [
        "--cache-mb",
        "0",
        "--dtype",
        "float32",
        "--replicas",
        "2",
        "--watchdog-timeout",
        "3",
        "--admin-api-key",
        "secret",
    ]
    with RunningServer(MODEL, *flags, f"--lora-paths=one={folder}") as server:
        yield server


class Soak:
    """The traffic, and its ledger."""

    def __init__(self, client: httpx.AsyncClient, expected: dict[str | None, Vectors], folder: Path) -> None:
        """`expected`: the vectors of QUERIES and BULK without and with the adapter, which is in `folder`."""
        self._client = client
        self._expected = {**expected, "spare": expected["one"]}
        self._folder = folder
        self.random = random.Random(1)
        self.ledger = Ledger()

    async def query(self) -> None:
        i, adapter = self.random.randrange(len(QUERIES)), self.random.choice([None, None, "one"])
        await self._embed(QUERIES[i], adapter, slice(i, i + 1))

    async def bulk(self) -> None:
        await self._embed(BULK, None, slice(len(QUERIES), None))

    async def bad(self) -> None:
        body, code = self.random.choice(BAD_BODIES)
        self.ledger.asked()
        headers = {"Content-Type": "application/json"}
        self.ledger.refused(await self._client.post("/v1/embeddings", content=body, headers=headers), code)

    async def gone(self) -> None:
        """A client that leaves before its answer."""
        self.ledger.asked()
        asking = asyncio.create_task(self._client.post("/v1/embeddings", json={"model": MODEL, "input": BULK}))
        await asyncio.wait([asking], timeout=self.random.random() / 50)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        self.ledger.abandoned()

    async def reload(self) -> None:
        """Adapters are loaded anew, or under one more name, used, and let go of."""
        for name in ("one", "spare"):
            if not await self._change("load", lora_name=name, lora_path=str(self._folder)):
                return
        await self._embed(QUERIES[:4], "spare", slice(0, 4))
        await self._change("unload", lora_name="spare")

    async def _change(self, verb: str, **body: str) -> bool:
        self.ledger.asked()
        answer = await self._client.post(f"/{verb}_lora_adapter", json=body, headers=ADMIN)
        return self.ledger.changed(answer)

    async def _embed(self, value: object, adapter: str | None, rows: slice) -> None:
        self.ledger.asked()
        body = {"model": MODEL if adapter is None else f"{MODEL}:{adapter}", "input": value}
        self.ledger.answered(await self._client.post("/v1/embeddings", json=body), self._expected[adapter][rows])


async def repeat(act: Callable[[], Awaitable[None]], until: float) -> None:
    while time.monotonic() < until:
        await act()


async def harm(server: RunningServer, ends_at: float) -> None:
    """Kill, stop and replace engines in turn, each time once all are there."""
    for harm in itertools.cycle(["kill", "roll", "stop", "restart"]):
        while len(engines := server.children("embedway.engine.loop")) < 2:
            await asyncio.sleep(0.05)
        if time.monotonic() > ends_at:
            return
        match harm:
            case "kill":
                engines[0].kill()
            case "stop":
                engines[1].suspend()
            case "roll":
                server.process.send_signal(signal.SIGHUP)
            case "restart":
                async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
                    assert (await client.post("/restart_engines", headers=ADMIN)).status_code in (202, 409)
        await asyncio.sleep(min(HARM_SECONDS, max(0.0, ends_at - time.monotonic())))


async def watch_memory(server: RunningServer, log: MemoryLog, ends_at: float) -> None:
    while time.monotonic() < ends_at:
        log.sample(server)
        await asyncio.sleep(SECONDS / 120)


async def expected_vectors(client: httpx.AsyncClient) -> dict[str | None, Vectors]:
    async def of(name: str) -> Vectors:
        answer = await client.post("/v1/embeddings", json={"model": name, "input": QUERIES + BULK})
        return vectors_of(answer.raise_for_status().json())

    return {None: await of(MODEL), "one": await of(f"{MODEL}:one")}


async def until_idle(client: httpx.AsyncClient, num_engines: int = 2) -> None:
    """Wait until all engines are there, with empty queues."""

    async def poll() -> None:
        while True:
            engines = (await client.get("/server_info")).json()["engines"]
            if len(engines) == num_engines and all(engine and not engine["queued_requests"] for engine in engines):
                return
            await asyncio.sleep(0.05)

    await asyncio.wait_for(poll(), 60)


def check_memory(log: MemoryLog) -> None:
    early, late = log.between(1 / 6, 2 / 6), log.between(5 / 6, 1)
    shown = {
        role: f"{late[role] / 2**20:.0f} MiB, x {ratio:.3f}" for role, ratio in sorted(growth(early, late).items())
    }
    print(f"\nmemory after {SECONDS:g} s, and its growth since the first sixth: {shown}")
    roles = early.keys() & late.keys()  # without that of a process which is just being made, and has none yet
    assert {"API process", "engines", "supervisor"} <= roles
    assert all(late[role] < early[role] * GROWTH + SLACK_BYTES for role in roles), shown


async def test_a_soak_ends_every_request_in_its_own_vectors_or_one_clear_error(
    server: RunningServer, folder: Path
) -> None:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=120) as client:
        expected = await expected_vectors(client)
        assert not np.allclose(expected[None], expected["one"], atol=0.01)
        soak, ends_at, memory = Soak(client, expected, folder), time.monotonic() + SECONDS, MemoryLog()
        acts: list[Callable[[], Awaitable[Any]]] = [soak.query] * 4
        acts += [soak.bulk, soak.bulk, soak.bad, soak.gone, soak.reload]
        traffic = [asyncio.create_task(repeat(act, ends_at)) for act in acts]
        await asyncio.gather(harm(server, ends_at), watch_memory(server, memory, ends_at), *traffic)
        await until_idle(client)
        print(f"\n{soak.ledger.num_asked} requests: {dict(soak.ledger.ends)}")
        assert soak.ledger.wrong == []
        assert soak.ledger.ends.total() == soak.ledger.num_asked
        assert soak.ledger.ends["right"] > 2 * SECONDS, soak.ledger.ends
        assert soak.ledger.ends["changed"] > 0
        check_memory(memory)
    assert "Traceback" not in "".join(server.log)
