"""Bodies that were right once and were then broken in every way: each gets its vectors or one clear 4xx, and in time.

Some hundred in the suite; `make fuzz BODIES=20000 SEED=7` sends as many others.
"""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import httpx
import numpy as np
import pytest

from ledger import vectors_of
from running_server import RunningServer

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
BODIES = int(os.environ.get("BODIES", "500"))
SEED = int(os.environ.get("SEED", "1"))
CONNECTIONS = 16
LONGEST_SECONDS = 60.0
KNOWN = {"model": MODEL, "input": "a text whose vector is known"}

VALID: list[dict[str, Any]] = [
    KNOWN,
    {"model": MODEL, "input": ["one", "two", "three"], "encoding_format": "base64", "user": "somebody"},
    {"model": MODEL, "input": [101, 7592, 102], "dimensions": 384, "priority": 3, "timeout_ms": 60000},
    {"model": MODEL, "input": [[101, 7592, 102], [101, 102]], "output_dtype": "int8", "normalize": False},
    {"model": MODEL, "input": [{"text": "one"}, {"text": "two"}], "truncate": "end", "rid": ["a", "b"]},
    {"model": MODEL, "input": "long " * 400, "truncate": "start", "input_type": "query", "prompt": "query: "},
    {"model": MODEL, "input": [{"type": "text", "text": "one"}], "lora_path": None, "prompt_name": None},
]
ODD_VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1.5, 1e308, -1e-308, 2**31, 2**63, -(2**63) - 1, 10**400, float("nan"), float("inf")),
    *("", " ", "\0", "\ud800", "\udfff\ud800", "\U0001f9d1‍\U0001f680", "؀‮a", "é" * 300, "﷽" * 50, "\\u0000"),
    *([], {}, [[]], [None], [{}], [[[]]], {"": ""}, {"text": None}, [1, "a"], ["a", [1]], [2**70], [-1], "a" * 10_000),
]
ODD_HEADERS: list[tuple[bytes, bytes]] = [
    (b"Content-Type", b"text/plain"),
    (b"Content-Type", b"application/json; charset=utf-16"),
    (b"Content-Type", b"multipart/form-data; boundary=x"),
    (b"Content-Type", b""),
    (b"Content-Type", b"\xff\xfe"),
    (b"Content-Encoding", b"gzip"),
    (b"Content-Encoding", b"br, nonsense"),
    (b"Accept", b"image/png"),
    (b"Authorization", b"Bearer \xff"),
    (b"X-Request-Id", b"a" * 4000),
    (b"X-Request-Timeout-Ms", b"-1"),
    (b"X-Request-Timeout-Ms", b"1e9"),
    (b"Cookie", b"a=b; " * 500 + b"c=d"),
    (b"Expect", b"nonsense"),
]


@dataclass(frozen=True)
class Sent:
    """One request."""

    value: Any
    """As JSON holds it"""
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ((b"Content-Type", b"application/json"),)


Mutation: TypeAlias = Callable[[random.Random, Sent], Sent]


def with_value(sent: Sent, value: Any) -> Sent:
    return replace(sent, value=value, body=json.dumps(value).encode())


def swap_a_value(rng: random.Random, sent: Sent) -> Sent:
    """A field's, or an item's of `input`."""
    value = json.loads(json.dumps(sent.value))
    field = rng.choice([*value, "input"])
    if field == "input" and isinstance(value.get("input"), list) and value["input"] and rng.random() < 0.7:
        value["input"][rng.randrange(len(value["input"]))] = rng.choice(ODD_VALUES)
    else:
        value[field] = rng.choice(ODD_VALUES)
    return with_value(sent, value)


def drop_or_rename_a_field(rng: random.Random, sent: Sent) -> Sent:
    value = dict(sent.value)
    field = rng.choice(list(value))
    kept = value.pop(field)
    if rng.random() < 0.5:
        value[rng.choice([field.upper(), field + "\0", "", "__proto__", "x" * 5000])] = kept
    return with_value(sent, value)


def nest(rng: random.Random, sent: Sent) -> Sent:
    """Deeper than any parser likes."""
    depth = rng.choice([3, 100, 1000, 5000, 200_000])
    opening, closing = rng.choice([(b"[", b"]"), (b'{"a":', b"}")])
    nested = opening * depth + b"1" + closing * (depth if rng.random() < 0.7 else rng.randrange(depth))
    return replace(sent, body=b'{"model": "%s", "input": %s}' % (MODEL.encode(), nested))


def flip_bytes(rng: random.Random, sent: Sent) -> Sent:
    body = bytearray(sent.body)
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        if body:
            body[rng.randrange(len(body))] = rng.randrange(256)
    return replace(sent, body=bytes(body))


def cut(rng: random.Random, sent: Sent) -> Sent:
    return replace(sent, body=sent.body[: rng.randrange(len(sent.body) + 1)])


def repeat_a_part(rng: random.Random, sent: Sent) -> Sent:
    i, j = sorted(rng.randrange(len(sent.body) + 1) for _ in range(2))
    return replace(sent, body=sent.body[:j] + sent.body[i:j] * rng.choice([1, 2, 50]) + sent.body[j:])


def encode_otherwise(rng: random.Random, sent: Sent) -> Sent:
    text = sent.body.decode("utf-8", "replace")
    encodings: list[Callable[[], bytes]] = [
        lambda: text.encode("utf-16"),
        lambda: text.encode("utf-32-be"),
        lambda: b"\xef\xbb\xbf" + sent.body,
        lambda: gzip.compress(sent.body),
        lambda: sent.body + rng.randbytes(20),
        lambda: rng.randbytes(len(sent.body)),
        lambda: text.replace('"', "'").encode(),
    ]
    return replace(sent, body=rng.choice(encodings)())


def write_numbers_otherwise(rng: random.Random, sent: Sent) -> Sent:
    """As JSON allows it, or does not."""
    number = rng.choice(
        [b"1e5", b"-0", b"0x10", b"01", b"1" * 400, b"1.0", b"NaN", b"-Infinity", b"1e999", b"+1", b"."]
    )
    field = rng.choice([b"dimensions", b"priority", b"timeout_ms", b"input"])
    return replace(sent, body=b'{"model": "%s", "input": "a", "%s": %s}' % (MODEL.encode(), field, number))


def change_a_header(rng: random.Random, sent: Sent) -> Sent:
    name, value = rng.choice(ODD_HEADERS)
    return replace(sent, headers=(*(own for own in sent.headers if own[0] != name), (name, value)))


ON_VALUES: list[Mutation] = [swap_a_value, swap_a_value, drop_or_rename_a_field]
ON_BYTES: list[Mutation] = [flip_bytes, cut, repeat_a_part, encode_otherwise, nest, write_numbers_otherwise]


def fuzzed(rng: random.Random) -> Iterator[Sent]:
    """Without an end; the first mutations are of the value, the later ones of its bytes and of what is around it."""
    while True:
        sent = with_value(Sent(None, b""), rng.choice(VALID))
        for mutation in rng.choices(ON_VALUES, k=rng.randrange(3)):
            sent = mutation(rng, sent) if sent.value else sent
        if rng.random() < 0.5:
            sent = rng.choice(ON_BYTES)(rng, sent)
        if rng.random() < 0.2:
            sent = change_a_header(rng, sent)
        yield sent


def problem_of(answer: httpx.Response, seconds: float) -> str | None:
    """What is wrong with an answer; None: nothing."""
    if seconds > LONGEST_SECONDS:
        return f"took {seconds:.0f} s"
    if answer.status_code == 200:
        return None if set(answer.json()) == {"object", "data", "model", "usage"} else "is not OpenAI's"
    if not 400 <= answer.status_code < 500:
        return "is neither a 2xx nor a 4xx"
    error = answer.json().get("error")
    if not isinstance(error, dict) or set(error) != {"message", "type", "param", "code"} or not error["message"]:
        return "has not OpenAI's shape"
    return None


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with RunningServer("--dtype", "float32") as server:
        yield server


async def test_a_broken_body_gets_its_vectors_or_one_clear_4xx(server: RunningServer) -> None:
    bodies = itertools.islice(fuzzed(random.Random(SEED)), BODIES)
    codes: Counter[str] = Counter()
    wrong: list[str] = []
    slowest = 0.0

    async def send_in_turn(client: httpx.AsyncClient) -> None:
        nonlocal slowest
        for sent in bodies:
            began = time.monotonic()
            answer = await client.post("/v1/embeddings", content=sent.body, headers=list(sent.headers))
            seconds = time.monotonic() - began
            slowest = max(slowest, seconds)
            codes["ok" if answer.status_code == 200 else answer.json()["error"]["code"]] += 1
            if (problem := problem_of(answer, seconds)) is not None:
                wrong.append(f"{answer.status_code} {problem}: {sent.headers} {sent.body[:500]!r}: {answer.text[:500]}")

    async with httpx.AsyncClient(base_url=server.url, timeout=2 * LONGEST_SECONDS) as client:
        before = vectors_of((await client.post("/v1/embeddings", json=KNOWN)).raise_for_status().json())
        await asyncio.gather(*(send_in_turn(client) for _ in range(CONNECTIONS)))
        print(f"\n{codes.total()} bodies of seed {SEED}, the slowest took {slowest:.2f} s: {dict(codes.most_common())}")
        assert wrong == [], f"seed {SEED}"
        assert codes.total() == BODIES
        assert codes["ok"] > BODIES / 10
        assert len(codes) > 5, "the mutations reach many checks"
        assert (await client.get("/health")).status_code == 200
        after = vectors_of((await client.post("/v1/embeddings", json=KNOWN)).raise_for_status().json())
        np.testing.assert_allclose(after, before, atol=1e-6)
    assert "Traceback" not in "".join(server.log)
