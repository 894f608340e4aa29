"""A large request is answered as a small one is, byte for byte."""

from __future__ import annotations

from typing import Any

import httpx
import orjson
import pytest

from api.conftest import MODEL, Connect
from embedway.api.body_limit import SMALL_BODY
from embedway.api.pieces_response import JOINED_BYTES

LONG = "many words " * 10
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "a text": ("/v1/embeddings", {"input": "a"}),
    "texts": ("/v1/embeddings", {"input": ["a", "é 字 \U0001f600", LONG], "user": "somebody"}),
    "ids": ("/v1/embeddings", {"input": [1, 2, 3]}),
    "lists of ids": ("/v1/embeddings", {"input": [[1, 2], [3]], "encoding_format": "base64"}),
    "an object": ("/v1/embeddings", {"input": {"text": "a"}}),
    "a message": ("/v1/embeddings", {"messages": [{"role": "user", "content": "a"}]}),
    "ids cut": ("/v1/embeddings", {"input": [5] * 1000, "truncate": "end"}),
    "ids too many": ("/v1/embeddings", {"input": [5] * 1000}),
    "a text too long": ("/v1/embeddings", {"input": ["a", LONG * 100]}),
    "an id unknown": ("/v1/embeddings", {"input": [[1, 2**63]]}),
    "an id negative": ("/v1/embeddings", {"input": [[1, 2], [1, -1]]}),
    "types mixed": ("/v1/embeddings", {"input": ["a", 1]}),
    "an image": ("/v1/embeddings", {"input": [{"image": "data:,"}]}),
    "no input": ("/v1/embeddings", {}),
    "an unknown model": ("/v1/embeddings", {"model": "no", "input": [None]}),
    "a wrong field": ("/v1/embeddings", {"input": "a", "dimensions": "8"}),
    "a rid": ("/v1/embeddings", {"input": ["a", "b"], "rid": ["x", "y"]}),
    "a rid too few": ("/v1/embeddings", {"input": ["a", "b"], "rid": ["x"]}),
    "an adapter": ("/v1/embeddings", {"input": ["a"], "lora_path": ["no"]}),
    "a deadline": ("/v1/embeddings", {"input": ["a"], "timeout_ms": 0}),
    "tokenize": ("/tokenize", {"prompt": ["a", LONG]}),
    "tokenize a text": ("/tokenize", {"prompt": LONG}),
    "tokenize ids": ("/tokenize", {"prompt": [1]}),
    "detokenize": ("/detokenize", {"tokens": [[7592, 2088], [2088]]}),
    "detokenize text": ("/detokenize", {"tokens": "a"}),
    "encode nothing": ("/encode", {}),
    "encode both": ("/encode", {"text": "a", "input_ids": [1]}),
}


async def send(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
    raw = orjson.dumps({"model": MODEL, **body})
    response = await client.post(path, content=raw, headers={"Content-Type": "application/json"})
    return response.status_code, response.content


async def test_it_is_answered_the_same_whether_large_or_small(connect: Connect) -> None:
    async with connect() as client:
        for name, (path, body) in REQUESTS.items():
            small = await send(client, path, body)
            assert small == await send(client, path, {**body, "ignored": "x" * SMALL_BODY}), name


async def test_encode_as_well_but_for_its_latency(connect: Connect) -> None:
    async with connect() as client:
        body = {"input_ids": [[1, 2], [3]], "rid": ["a", "b"], "text": None}
        answers = [orjson.loads((await send(client, "/encode", body))[1])]
        answers.append(orjson.loads((await send(client, "/encode", {**body, "ignored": "x" * SMALL_BODY}))[1]))
        for answer in answers:
            for one in answer:
                del one["meta_info"]["e2e_latency"]
        assert answers[0] == answers[1]


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
async def test_an_answer_in_pieces_is_those_of_its_parts(connect: Connect, encoding_format: str) -> None:
    async with connect() as client:
        texts = [f"{i}" for i in range(1600)]
        fields = {"encoding_format": encoding_format}
        status, whole = await send(client, "/v1/embeddings", {"input": texts, **fields})
        assert status == 200
        assert len(whole) > JOINED_BYTES
        halves = [
            await send(client, "/v1/embeddings", {"input": half, **fields}) for half in (texts[:800], texts[800:])
        ]
        rows = [row["embedding"] for _, half in halves for row in orjson.loads(half)["data"]]
        assert orjson.loads(whole)["data"] == [
            {"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)
        ]
