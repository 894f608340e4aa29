"""Against a server on loopback that answers as each test says."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
from collections.abc import AsyncGenerator, Iterator

import pytest

from embeddings_answers import TOKENS, embed, inputs_of, vectors_for
from embedway.load_test.client import Client
from embedway.load_test.loads import arrivals, run, run_closed, run_open
from embedway.load_test.measurement import Load
from embedway.load_test.request_bodies import write_requests
from embedway.load_test.target import read_target
from loopback_server import Answer, Asked, LoopbackServer, response, serving


@contextlib.asynccontextmanager
async def loading(
    answer: Answer, texts: Iterator[str], *, items_per_request: int = 1
) -> AsyncGenerator[tuple[Client, Iterator[bytes], LoopbackServer]]:
    """A client, requests with these texts, and the server."""
    async with serving(answer) as server:
        target = read_target(f"http://127.0.0.1:{server.port}", None)
        client = Client(target, timeout=30)
        try:
            yield (
                client,
                write_requests(target, texts, model="m", items_per_request=items_per_request, encoding_format="base64"),
                server,
            )
        finally:
            client.close()


def words(count: int) -> Iterator[str]:
    return (f"word {i}" for i in range(count))


async def test_every_request_of_a_closed_load_is_sent_once_and_timed() -> None:
    async with loading(embed, words(40), items_per_request=2) as (client, requests, server):
        measured = await run_closed(client, requests, concurrency=4, seconds=60)
    sent = [text for asked in server.asked for text in inputs_of(asked)]
    assert sorted(sent) == sorted(words(40))
    assert (measured.answered, measured.failures, measured.tokens) == (20, {}, 40 * TOKENS)
    assert 0 < measured.latencies[0] <= measured.latencies[-1] <= measured.seconds
    assert server.num_connections == 4


async def test_no_request_of_a_closed_load_begins_once_its_time_is_over() -> None:
    async with loading(embed, words(5)) as (client, requests, server):
        measured = await run_closed(client, requests, concurrency=2, seconds=-1)
    assert (measured.answered, len(server.asked)) == (0, 0)


async def test_a_closed_load_never_has_more_unanswered_than_it_may() -> None:
    unanswered, most = 0, 0

    async def count(asked: Asked, writer: asyncio.StreamWriter) -> None:
        nonlocal unanswered, most
        unanswered += 1
        most = max(most, unanswered)
        await asyncio.sleep(0)
        unanswered -= 1
        writer.write(vectors_for(asked))

    async with loading(count, words(60)) as (client, requests, _):
        await run(client, requests, Load(concurrency=3), seconds=60)
    assert most <= 3


async def test_an_open_load_does_not_wait_for_answers() -> None:
    """They are due together, and the server holds each until all have come."""
    all_came = asyncio.Event()

    async def hold(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if len(server.asked) == expected:
            all_came.set()
        await all_came.wait()
        writer.write(vectors_for(asked))

    expected = len(list(arrivals(2000, 0.02, 0)))
    assert expected > 20
    async with loading(hold, words(expected)) as (client, requests, server):
        measured = await run(client, requests, Load(rate=2000), seconds=0.02)
    assert measured.answered == expected


async def test_an_open_load_s_latencies_count_from_when_a_request_was_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one connection, what comes while the server stalls has waited for it, too."""
    monkeypatch.setattr("embedway.load_test.loads.MOST_AT_ONCE", 1)
    stalled = asyncio.Event()

    async def stall_once(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if not stalled.is_set():
            stalled.set()
            await asyncio.sleep(0.3)
        writer.write(vectors_for(asked))

    async with loading(stall_once, itertools.cycle(["a"])) as (client, requests, _):
        measured = await run_open(client, requests, rate=200, seconds=0.1)
    assert measured.answered > 5
    assert measured.percentile(0) > 0.15  # ty: ignore[unsupported-operator] - there are answers


def test_the_arrivals_of_an_open_load_are_random_and_of_the_rate_that_is_wanted() -> None:
    due = list(arrivals(1000, 10, 0))
    assert len(due) == pytest.approx(10_000, rel=0.05)
    assert due == sorted(due)
    gaps = [b - a for a, b in itertools.pairwise(due)]
    assert sum(gap > 0.002 for gap in gaps) == pytest.approx(len(gaps) * 0.135, rel=0.15)  # e^-2


async def test_what_gets_no_vectors_is_counted_by_what_it_got() -> None:
    async def by_text(asked: Asked, writer: asyncio.StreamWriter) -> None:
        match inputs_of(asked)[0]:
            case "refuse":
                writer.write(response(b"{}", status="429 Too Many Requests", retry_after=0))
            case "fail":
                writer.write(response(b"{}", status="500 Internal Server Error"))
            case "hang up":
                writer.close()
            case _:
                writer.write(vectors_for(asked))

    texts = ["a", "refuse", "fail", "hang up", "refuse", "b"]
    async with loading(by_text, iter(texts)) as (client, requests, _):
        measured = await run_closed(client, requests, concurrency=1, seconds=60)
    assert measured.answered == 2
    assert measured.failures == {"429": 2, "500": 1, "connection closed": 1}


async def test_a_server_that_takes_no_connections_fails_every_request() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        client = Client(read_target(f"127.0.0.1:{taken.getsockname()[1]}", None), timeout=30)
        measured = await run_closed(client, itertools.repeat(b"", 3), concurrency=2, seconds=60)
    assert measured.answered == 0
    assert measured.failures == {"cannot connect (Connection refused)": 3}


async def test_a_refused_sender_waits_as_long_as_it_is_asked_to() -> None:
    async def refuse(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(response(b"{}", status="429 Too Many Requests", retry_after=3600))

    async with loading(refuse, itertools.cycle(["a"])) as (client, requests, server):
        measured = await run_closed(client, requests, concurrency=2, seconds=0.3)
    assert len(server.asked) == 2
    assert (measured.refused, measured.failed, measured.tokens) == (2, 0, None)


async def test_tokens_are_unknown_where_one_answer_does_not_say() -> None:
    async def without_usage(asked: Asked, writer: asyncio.StreamWriter) -> None:
        whole = json.loads(vectors_for(asked).split(b"\r\n\r\n")[1])
        if inputs_of(asked) == ["silent"]:
            del whole["usage"]
        writer.write(response(json.dumps(whole).encode()))

    async with loading(without_usage, iter(["a", "silent", "b"])) as (client, requests, _):
        measured = await run_closed(client, requests, concurrency=1, seconds=60)
    assert (measured.answered, measured.tokens, measured.tokens_per_second) == (3, None, None)
