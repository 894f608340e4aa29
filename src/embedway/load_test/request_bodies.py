"""Texts → whole HTTP requests, as bytes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import orjson

from embedway.load_test.target import Target


def write_requests(
    target: Target, texts: Iterator[str], *, model: str, items_per_request: int, encoding_format: str
) -> Iterator[bytes]:
    """Requests until the texts end; `input` is a string where it is one, as most clients send a query."""
    while batch := list(itertools.islice(texts, items_per_request)):
        given = batch[0] if items_per_request == 1 else batch
        body = orjson.dumps({"model": model, "input": given, "encoding_format": encoding_format})
        lines = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        yield target.head("POST", target.path, lines) + body
