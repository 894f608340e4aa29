"""Clients that go away at every point of a request leave nothing behind: no work, no place in the books, no memory.

Some hundred in the suite; `make disconnects DISCONNECTS=10000` sends as many others.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeAlias

import httpx
import pytest

from resident_memory import growth, resident_bytes
from running_server import RunningServer

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
DISCONNECTS = int(os.environ.get("DISCONNECTS", "300"))
NUM_WORDS = 30522
"""Of the model's vocabulary"""
CONNECTIONS = 50
"""At once"""
GROWTH = 1.05
SLACK_BYTES = 8 << 20 if DISCONNECTS < 5000 else 0
"""What few disconnects may add to a growth of 5%, before the allocators are warm"""
HEAD = (
    b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
)


def request(value: object) -> bytes:
    body = json.dumps({"model": MODEL, "input": value}).encode()
    return HEAD % len(body) + body


NUMBERS = itertools.count()
"""Of texts: no two are alike, or one would be answered by another's vector"""


def short_request() -> bytes:
    return request(f"{next(NUMBERS)} is a text " * 10)


def long_request() -> bytes:
    return request([f"document {next(NUMBERS)} with some words in it" for _ in range(12)])


LARGE_ANSWER = request([[101, 102]] * 64)
"""Half a MiB of it"""

Leave: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter, random.Random], Awaitable[None]]
"""What a client does with its connection until it goes"""


async def before_the_body_s_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random) -> None:
    whole = long_request()
    writer.write(whole[: rng.randrange(1, len(whole))])
    await writer.drain()


async def once_it_has_asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random) -> None:
    """With so many others about, most of them are in the queue then."""
    writer.write(rng.choice([short_request, long_request])())
    await writer.drain()


async def while_it_is_worked_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random) -> None:
    """At any moment until the answer begins."""
    writer.write(rng.choice([short_request, long_request])())
    await asyncio.wait([asyncio.ensure_future(reader.read(1))], timeout=rng.random() / 2)


async def while_it_reads_the_answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random
) -> None:
    writer.write(LARGE_ANSWER)
    assert await reader.read(64)


LEAVING: dict[str, Leave] = {
    "before the body's end": before_the_body_s_end,
    "once asked": once_it_has_asked,
    "while it is worked on": while_it_is_worked_on,
    "while the answer comes": while_it_reads_the_answer,
}
WEIGHTS = [1, 2, 2, 1]


async def come_and_go(port: int, count: int, rng: random.Random) -> Counter[str]:
    """`count` clients, CONNECTIONS at a time; return how many left at which point."""
    left: Counter[str] = Counter()
    numbers = iter(range(count))

    async def in_turn() -> None:
        for _ in numbers:
            [point] = rng.choices([*LEAVING], WEIGHTS)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                await LEAVING[point](reader, writer, rng)
            finally:
                writer.transport.abort()
            left[point] += 1

    await asyncio.gather(*itertools.starmap(in_turn, [()] * CONNECTIONS))
    return left


async def read_every_word(client: httpx.AsyncClient) -> None:
    """The weights are a mapped file: a page of its word table is in memory once a token needs it, and so all are."""
    words = [list(range(first, min(first + 250, NUM_WORDS))) for first in range(0, NUM_WORDS, 250)]
    answer = await client.post("/v1/embeddings", json={"model": MODEL, "input": words})
    assert answer.status_code == 200


async def until_nothing_is_left(client: httpx.AsyncClient) -> None:
    """Wait until nobody has anything of anybody: neither the engine nor admission."""

    async def poll() -> None:
        while True:
            info = (await client.get("/server_info")).json()
            engine, books = info["engines"][0], info["admission"]
            held = [books[name][what] for name in ("interactive", "bulk") for what in ("requests", "tokens")]
            if not (engine["queued_requests"] or engine["queued_tokens"] or any(held)):
                return
            await asyncio.sleep(0.02)

    await asyncio.wait_for(poll(), 60)


async def num_ended(client: httpx.AsyncClient) -> int:
    """Requests that were given up since their clients had gone."""
    text = (await client.get("/metrics")).text
    [found] = re.findall(r'^embedway_requests_ended_total\{cause="disconnect"\} (\S+)$', text, re.MULTILINE)
    return int(float(found))


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with RunningServer("--dtype", "float32", "--cache-mb", "0") as server:  # one that fills would be a growth
        yield server


async def test_clients_that_go_away_at_any_point_leave_neither_work_nor_memory(server: RunningServer) -> None:
    rng = random.Random(1)
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
        await come_and_go(server.port, max(300, DISCONNECTS // 5), rng)  # allocators and metrics are warm then
        if not SLACK_BYTES:
            await read_every_word(client)
        await until_nothing_is_left(client)
        before = resident_bytes(server)
        ended = await num_ended(client)
        left = await come_and_go(server.port, DISCONNECTS, rng)
        await until_nothing_is_left(client)
        print(f"\n{await num_ended(client) - ended} requests ended as their clients had gone")
        assert await num_ended(client) > ended
        after = resident_bytes(server)
        shown = {role: f"{after[role] / 2**20:.0f} MiB, x {ratio:.3f}" for role, ratio in growth(before, after).items()}
        print(f"\n{dict(left)} went away; memory: {shown}")
        assert left.total() == DISCONNECTS
        assert all(after[role] < before[role] * GROWTH + SLACK_BYTES for role in before), shown
        answer = await client.post("/v1/embeddings", json={"model": MODEL, "input": "still here"})
        assert answer.status_code == 200
    assert "Traceback" not in "".join(server.log)
