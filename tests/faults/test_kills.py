"""Engines die under load, again and again: every request ends in its own vectors or in one clear error."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from embedway.engine import supervisor
from embedway.engine.client import EngineClient
from embedway.errors import EngineCrashed, EngineLost, EngineNotReady
from fake_model import fake_vector
from fake_supervisor import running, supervisor_of, until_ready
from running_engine import packed, until

NUM_KILLS = 20


async def ask(client: EngineClient, ends: Counter[str], number: int) -> None:
    """One request, into the ledger."""
    ids = [number % 600 + 1, number // 600 + 1]
    try:
        result = await client.embed(packed(ids))
    except (EngineCrashed, EngineLost, EngineNotReady) as error:
        ends[error.code] += 1
    else:
        is_right = np.array_equal(result.vectors, [fake_vector(ids)])
        ends["right" if is_right else "wrong"] += 1


async def test_twenty_kills_under_load_lose_and_confuse_nothing(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "MAX_QUICK_DEATHS", NUM_KILLS)
    monkeypatch.setattr(supervisor, "LONGEST_BACKOFF_SECONDS", 0.1)
    ends: Counter[str] = Counter()
    asked: list[asyncio.Task[None]] = []
    async with running(supervisor_of(address)), EngineClient([address]) as client:
        pid = 0
        for _ in range(NUM_KILLS):
            pid = await until_ready(client, but_not=pid)
            for _ in range(100):
                asked.append(asyncio.create_task(ask(client, ends, len(asked))))
            await asyncio.sleep(0)  # they are sent
            os.kill(pid, signal.SIGKILL)
        await until_ready(client, but_not=pid)
        await asyncio.wait_for(asyncio.gather(*asked), 60)
        await until(lambda: (status := client.statuses()[0]) is not None and status.queued_requests == 0)
    assert ends["wrong"] == 0
    assert ends.total() == 100 * NUM_KILLS
    assert ends["right"] > 99 * NUM_KILLS, ends


async def test_an_engine_whose_socket_file_was_removed_serves_those_that_are_connected(address: str) -> None:
    async with running(supervisor_of(address)), EngineClient([address]) as client:
        first = await until_ready(client)
        await asyncio.to_thread(Path(address).unlink)
        np.testing.assert_array_equal((await client.embed(packed([5]))).vectors, [fake_vector([5])])
        os.kill(first, signal.SIGKILL)  # and its successor makes one anew
        await until_ready(client, but_not=first)
        np.testing.assert_array_equal((await client.embed(packed([6]))).vectors, [fake_vector([6])])
