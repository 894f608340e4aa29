"""Requests that keep a server's engine busy, for tests of what happens meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import httpx

from running_server import RunningServer

MODEL = "sentence-transformers/all-MiniLM-L6-v2"


def long_body(i: int) -> dict[str, object]:
    """Some tenths of a second of work."""
    return {"model": MODEL, "input": [f"text {i} {j} " * 20 for j in range(16)]}


@contextlib.asynccontextmanager
async def loaded(server: RunningServer, num_requests: int) -> AsyncGenerator[list[asyncio.Task[httpx.Response]]]:
    """Requests that are with the engine, most of them in its queue."""
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
        tasks = [asyncio.create_task(client.post("/v1/embeddings", json=long_body(i))) for i in range(num_requests)]
        while await queued(client) < num_requests - 2:
            await asyncio.sleep(0.01)
        yield tasks


async def queued(client: httpx.AsyncClient) -> int:
    engine = (await client.get("/server_info")).json()["engines"][0]
    return engine["queued_requests"] if engine else 0
