"""Overload and its ends over real processes."""

from __future__ import annotations

import asyncio

import httpx

from running_server import RunningServer
from server_under_load import MODEL, loaded

ADMIN = {"Authorization": "Bearer admin"}


def bulk_body(i: int) -> dict[str, object]:
    """4000 tokens."""
    return {"model": MODEL, "input": [f"text {i} {j} " * 40 for j in range(32)]}


async def test_an_abort_reaches_the_requests_of_every_api_process() -> None:
    with RunningServer("--api-workers", "2", "--admin-api-key", "admin") as server:
        async with loaded(server, 40) as tasks, httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            assert (await client.post("/abort_request", json={"abort_all": True}, headers=ADMIN)).status_code == 200
            answers = await asyncio.gather(*tasks)
            counts = [answer.status_code for answer in answers]
            assert set(counts) <= {200, 409}
            assert counts.count(409) > 20  # they were spread over both
            assert (await client.post("/v1/embeddings", json={"model": MODEL, "input": "a"})).status_code == 200


async def test_under_overload_accepted_requests_keep_their_deadline_and_the_others_know_when_to_come_again() -> None:
    limits = httpx.Limits(max_connections=200)
    with RunningServer("--request-timeout", "4") as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as client:
            await client.post("/v1/embeddings", json=bulk_body(0))
            bulk = [asyncio.create_task(client.post("/v1/embeddings", json=bulk_body(i))) for i in range(150)]
            queries = [
                asyncio.create_task(client.post("/v1/embeddings", json={"model": MODEL, "input": f"query {i}"}))
                for i in range(20)
            ]
            assert [answer.status_code for answer in await asyncio.gather(*queries)] == [200] * 20
            answers = await asyncio.gather(*bulk)
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) <= {200, 429, 504}
    assert statuses.count(200) > statuses.count(504), "those that would be late are refused, not accepted"
    assert 429 in statuses
    assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer in answers if answer.status_code == 429)
