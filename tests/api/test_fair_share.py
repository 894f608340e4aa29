"""Two keys at one engine: whose requests run, and who finds room."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

from running_engine import GatedModel

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
Connect = Callable[..., contextlib.AbstractAsyncContextManager[httpx.AsyncClient]]
FLOOD, OTHER, ADMIN = 5, 6, 7
"""Token ids that say whose a sequence is"""
NUMBERS = itertools.count(10)
KEYS = {FLOOD: "flood", OTHER: "other", ADMIN: "admin"}


async def post(client: httpx.AsyncClient, owner: int, *, num_items: int = 1, **fields: object) -> httpx.Response:
    items = [[owner] * 199 + [next(NUMBERS)] for _ in range(num_items)]  # no two alike: those are computed once
    body = {"model": MODEL, "input": items, **fields}
    return await client.post("/v1/embeddings", json=body, headers={"Authorization": f"Bearer {KEYS[owner]}"})


async def until(client: httpx.AsyncClient, condition: Callable[[dict[str, Any]], bool]) -> None:
    """Wait for what /server_info shows."""

    async def poll() -> None:
        while not condition((await client.get("/server_info", headers={"Authorization": "Bearer admin"})).json()):
            await asyncio.sleep(0.005)

    await asyncio.wait_for(poll(), 30)


@pytest.mark.parametrize(("fair_share", "positions"), [("keys", {0, 1}), ("requests", {6})])
async def test_a_key_with_one_request_is_served_between_those_of_one_that_floods_the_server(
    connect: Connect, fair_share: str, positions: set[int]
) -> None:
    """A batch has room for one sequence; the flood's requests came first, and ask for priority."""
    model = GatedModel()
    async with connect(
        model=model, fair_share=fair_share, api_key=["flood", "other"], admin_api_key="admin", max_queued_tokens=100_000
    ) as client:
        tasks = [asyncio.create_task(post(client, ADMIN))]
        await until(client, lambda info: model.has_begun.is_set())
        tasks += [asyncio.create_task(post(client, FLOOD, priority=1)) for _ in range(6)]
        await until(client, lambda info: info["engines"][0]["queued_requests"] == 6)
        tasks.append(asyncio.create_task(post(client, OTHER)))
        await until(client, lambda info: info["engines"][0]["queued_requests"] == 7)
        model.gate.set()
        assert {answer.status_code for answer in await asyncio.gather(*tasks)} == {200}
    order = np.concatenate([batch.token_ids[batch.cu_seqlens[:-1]] for batch in model.batches])[1:].tolist()
    assert order.index(OTHER) in positions


async def test_a_key_cannot_fill_the_room_of_another(connect: Connect) -> None:
    model = GatedModel()
    async with connect(
        model=model, fair_share="keys", api_key=["flood", "other"], admin_api_key="admin", max_queued_requests=8
    ) as client:
        flood = [asyncio.create_task(post(client, FLOOD)) for _ in range(20)]
        await until(client, lambda info: sum(task.done() for task in flood) == 16)
        other = [asyncio.create_task(post(client, OTHER)) for _ in range(20)]
        await until(client, lambda info: sum(task.done() for task in other) == 18)
        model.gate.set()
        statuses = [[answer.status_code for answer in await asyncio.gather(*tasks)] for tasks in (flood, other)]
    assert [own.count(200) for own in statuses] == [4, 2]
    assert [own.count(429) for own in statuses] == [16, 18]
