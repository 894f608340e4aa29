"""What clients and load balancers see of a server that is told to end."""

from __future__ import annotations

import asyncio
import signal

import httpx

from running_server import RunningServer
from server_under_load import loaded

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
BODY = {"model": MODEL, "input": "a"}


async def status_of(server: RunningServer, path: str) -> int:
    """Over a connection of its own."""
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        return (await client.get(path)).status_code


async def test_a_server_that_is_to_end_says_so_before_it_closes_its_port() -> None:
    with RunningServer("--drain-delay", "4") as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as kept_alive, loaded(server, 5) as accepted:
            assert (await kept_alive.post("/v1/embeddings", json=BODY)).status_code == 200
            server.process.send_signal(signal.SIGTERM)
            while await status_of(server, "/readyz") == 200:
                await asyncio.sleep(0.01)
            assert await status_of(server, "/livez") == 200
            refused = await kept_alive.post("/v1/embeddings", json=BODY)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
            assert "Retry-After" in refused.headers
            answers = await asyncio.gather(*accepted)
        assert [answer.status_code for answer in answers] == [200] * 5
        assert server.process.wait(60) == 0
