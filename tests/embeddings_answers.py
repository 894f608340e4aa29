"""What a server with /v1/embeddings answers, for `loopback_server.serving`."""

from __future__ import annotations

import asyncio
import json

from loopback_server import Asked, response

DIMENSION = 3
TOKENS = 5
"""Of each item"""


def inputs_of(asked: Asked) -> list[str]:
    given = json.loads(asked.body)["input"]
    return [given] if isinstance(given, str) else given


def vectors_for(asked: Asked) -> bytes:
    """A whole response: a vector of DIMENSION numbers and TOKENS tokens for each item, or the list of models."""
    if asked.target.endswith("/models"):
        return response(json.dumps({"data": [{"id": "the-model"}]}).encode())
    count = len(inputs_of(asked))
    data = [{"object": "embedding", "index": i, "embedding": [0.5] * DIMENSION} for i in range(count)]
    usage = {"prompt_tokens": TOKENS * count, "total_tokens": TOKENS * count}
    return response(json.dumps({"object": "list", "data": data, "model": "the-model", "usage": usage}).encode())


async def embed(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(vectors_for(asked))
