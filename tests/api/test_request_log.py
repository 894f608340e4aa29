"""What is logged of requests where the operator wants it, and what of them never is."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
KEY, TEXT = "key-4410-secret", "text-7391-secret"
Connect = Callable[..., contextlib.AbstractAsyncContextManager[httpx.AsyncClient]]


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(record.getMessage()) for record in caplog.records if record.name == "embedway.requests"]


async def test_an_embedding_request_has_a_line_with_what_it_asked_for_and_how_long_it_took(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    body = {"model": MODEL, "input": [TEXT, "b"], "priority": 3}
    headers = {"Authorization": f"Bearer {KEY}", "X-Request-Id": "mine"}
    async with connect(log_requests=True, api_key=["other", KEY]) as client:
        answer = await client.post("/v1/embeddings", json=body, headers=headers)
    (line,) = lines(caplog)
    assert line.pop("tokens") == answer.json()["usage"]["prompt_tokens"]
    assert line.pop("seconds") >= line.pop("compute_seconds") > 0
    assert line.pop("queue_seconds") >= 0
    assert line == {
        "request_id": "mine",
        "method": "POST",
        "route": "/v1/embeddings",
        "status": 200,
        "key_number": 2,
        "model": MODEL,
        "items": 2,
        "priority": 3,
    }
    assert TEXT not in caplog.text
    assert KEY not in caplog.text


async def test_requests_that_fail_have_a_line_and_probes_have_none(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    hostile = "m\n2026 ERROR forged"
    key = {"Authorization": f"Bearer {KEY}"}
    async with connect(log_requests=True, api_key=[KEY]) as client:
        for path in ("/health", "/livez", "/readyz"):
            await client.get(path)
        await client.post("/v1/embeddings", json={"model": hostile, "input": TEXT}, headers=key)
        await client.post("/v1/embeddings", json={"model": MODEL, "input": ""}, headers=key)
        await client.post(f"/{TEXT}", content=TEXT, headers=key)
        await client.get("/metrics", headers={"Authorization": f"Bearer {TEXT}"})
    assert [(line["route"], line["status"], line.get("model")) for line in lines(caplog)] == [
        ("/v1/embeddings", 404, hostile),
        ("/v1/embeddings", 400, MODEL),
        ("unknown", 404, None),
        ("unknown", 401, None),
    ]
    assert hostile not in caplog.text
    assert TEXT not in caplog.text


async def test_texts_are_logged_where_they_are_asked_for_and_only_so_much_of_them(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    async with connect(log_requests=True, log_request_texts=6) as client:
        await client.post("/v1/embeddings", json={"model": MODEL, "input": ["ab\n", TEXT, "c"]})
        await client.post("/v1/embeddings", json={"model": MODEL, "input": [[1, 2]]})
    assert [line.get("texts") for line in lines(caplog)] == [["ab\n", TEXT[:3]], []]


async def test_nothing_is_logged_of_requests_by_default(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    async with connect() as client:
        await client.post("/v1/embeddings", json={"model": MODEL, "input": TEXT})
    assert lines(caplog) == []


async def test_texts_cannot_be_asked_for_by_themselves(connect: Connect) -> None:
    with pytest.raises(Exception, match="--log-request-texts: is of no use without --log-requests"):
        async with connect(log_request_texts=6):
            pass
