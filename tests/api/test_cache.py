"""The vector cache as HTTP clients and operators see it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from fake_model import FakeModel

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
Connect = Callable[..., contextlib.AbstractAsyncContextManager[httpx.AsyncClient]]
ADMIN = {"Authorization": "Bearer admin"}


async def embed(client: httpx.AsyncClient, text: str, **fields: Any) -> dict[str, Any]:
    answer = await client.post("/v1/embeddings", json={"model": MODEL, "input": text, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def engine_info(client: httpx.AsyncClient, sequences: int) -> dict[str, Any]:
    """What /server_info says of the engine, once so many sequences went through it."""

    async def poll() -> dict[str, Any]:
        while True:
            info = (await client.get("/server_info")).json()["engines"][0]
            if info["sequences"] + info["cache_hits"] + info["coalesced_sequences"] >= sequences:
                return info
            await asyncio.sleep(0.01)

    return await asyncio.wait_for(poll(), 30)


async def test_a_repeat_is_answered_like_the_first_and_counts_its_tokens(connect: Connect) -> None:
    model = FakeModel()
    async with connect(model=model) as client:
        first = await embed(client, "hello world")
        assert await embed(client, "hello world") == first
        assert first["usage"]["prompt_tokens"] == 4
        info = await engine_info(client, 2)
        assert (info["cache_hits"], info["cached_vectors"], info["tokens"]) == (1, 1, 4)
        assert info["cache_bytes"] > 0
        text = (await client.get("/metrics")).text
        assert 'embedway_engine_cache_hits_total{replica="0"} 1' in text
        assert 'embedway_batch_sequences_sum{replica="0"} 1' in text
        assert "embedway_prompt_tokens_total 8.0" in text
    assert len(model.batches) == 1


async def test_what_is_kept_is_neither_cut_nor_normalised(connect: Connect) -> None:
    """So one vector serves whatever is made of it."""
    ways = [{"normalize": False}, {}, {"dimensions": 4}, {"output_dtype": "binary"}, {"encoding_format": "base64"}]
    answers = {}
    for cache_mb in (0, 64):
        model = FakeModel()
        async with connect(model=model, cache_mb=cache_mb, matryoshka=True) as client:
            answers[cache_mb] = [await embed(client, "hello world", **way) for way in ways]
        assert len(model.batches) == (1 if cache_mb else len(ways))
    assert answers[0] == answers[64]


async def test_health_generate_asks_the_model_each_time(connect: Connect) -> None:
    model = FakeModel()
    async with connect(model=model) as client:
        for _ in range(2):
            assert (await client.get("/health_generate")).status_code == 200
    assert len(model.batches) == 2


async def test_an_operator_flushes_the_cache(connect: Connect) -> None:
    model = FakeModel()
    async with connect(model=model, admin_api_key="admin") as client:
        await embed(client, "hello")
        answer = await client.post("/flush_cache", headers=ADMIN)
        assert (answer.status_code, answer.text) == (200, "Cache flushed.\n")
        await embed(client, "hello")
    assert len(model.batches) == 2


@pytest.mark.parametrize(
    ("settings", "headers", "status", "code"),
    [
        ({}, ADMIN, 403, "admin_only"),
        ({"admin_api_key": "admin"}, {}, 401, "invalid_api_key"),
        ({"admin_api_key": "admin", "with_engine": False}, ADMIN, 503, "engine_not_ready"),
    ],
)
async def test_a_flush_needs_the_admin_key_and_an_engine(
    connect: Connect, settings: dict[str, Any], headers: dict[str, str], status: int, code: str
) -> None:
    async with connect(**settings) as client:
        answer = await client.post("/flush_cache", headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
