"""What is refused by its head gets the answer that the whole way would give, and leaves its connection in order."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import re
from collections.abc import AsyncGenerator

import pytest

from api.conftest import Serve
from api.protocol_server import EMBED, Server, connection, exchange, head, read_answer, request, say, serving
from embedway.api.admission import Held
from embedway.api.body_limit import SMALL_BODY
from embedway.api.early_refusal import EarlyRefusal
from embedway.api.plain_head import plain_head

QUERY = request("a text")
BROKEN = QUERY.replace(b'{"', b'"{')
"""No JSON"""
WHOLE_WAY = "Origin: http://elsewhere"
HURRIED = "X-Request-Timeout-Ms: 1000"


@contextlib.asynccontextmanager
async def full(serve: Serve, **settings: object) -> AsyncGenerator[Server]:
    """Whose only place is taken until the gate is opened."""
    async with serving(serve, **{"max_queued_requests": 1, **settings}) as server:
        server.model.gate.clear()
        try:
            with await asyncio.to_thread(connection, server.port, QUERY) as client:
                await server.until_admitted(1)
                yield server
                server.model.gate.set()
                assert status_of(await asyncio.to_thread(read_answer, client)) == 200
        finally:
            server.model.gate.set()


def status_of(answer: bytes) -> int:
    return int(answer.split()[1])


def parts_of(answer: bytes) -> tuple[int, dict[bytes, bytes], dict[str, object]]:
    """Status, headers and error, without what differs from one request to the next, and the server's own headers."""
    start, _, body = answer.partition(b"\r\n\r\n")
    lines = [line.lower().split(b": ", 1) for line in start.split(b"\r\n")[1:]]
    headers = {name: value for name, value in lines if name not in (b"date", b"x-request-id", b"vary")}
    return status_of(answer), headers, json.loads(body)["error"]


def counted(server: Server, *parts: str) -> float:
    """Of the metrics whose names have these parts."""
    return sum(value for name, value in server.context.metrics.totals().items() if all(part in name for part in parts))


async def test_the_answer_is_that_of_the_whole_way(serve: Serve) -> None:
    async with full(serve) as server:
        short, long = await exchange(server, QUERY, request("a text", EMBED, WHOLE_WAY))
        assert parts_of(short) == parts_of(long)
        assert status_of(short) == 429
        assert re.search(rb"x-request-id: [0-9a-f]{32}\r\n", short)
        assert counted(server, "_requests_total", 'status="429"') == 2
        assert counted(server, "refused", "requests", "interactive") == 2


async def test_a_refused_request_is_never_parsed(serve: Serve) -> None:
    async with full(serve) as server:
        assert [status_of(answer) for answer in await exchange(server, BROKEN)] == [429]
    async with serving(serve) as server:
        assert [status_of(answer) for answer in await exchange(server, BROKEN)] == [400]


async def test_the_connection_goes_on(serve: Serve) -> None:
    async with full(serve) as server:
        with await asyncio.to_thread(connection, server.port, b"") as client:
            assert status_of(await asyncio.to_thread(say, client, QUERY)) == 429
            client.sendall(QUERY[:-3])
            assert status_of(await asyncio.to_thread(say, client, QUERY[-3:] + QUERY[:20])) == 429
            assert status_of(await asyncio.to_thread(say, client, QUERY[20:])) == 429
            server.model.gate.set()
            await server.until_admitted(0)
            assert status_of(await asyncio.to_thread(say, client, QUERY)) == 200


async def test_answers_keep_the_order_of_their_requests(serve: Serve) -> None:
    async with full(serve) as server:
        ids = [f"X-Request-Id: number-{i}" for i in range(4)]
        together = b"".join(
            request("a text", EMBED, own, *([WHOLE_WAY] if i % 2 else [])) for i, own in enumerate(ids)
        ) + head("GET /livez", "Connection: close")

        def read_all() -> bytes:
            with connection(server.port, together) as client:
                return b"".join(iter(lambda: client.recv(2**16), b""))

        answers = await asyncio.to_thread(read_all)
        assert re.findall(rb"number-\d", answers) == [b"number-%d" % i for i in range(4)]
        assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"429"] * 4 + [b"200"]


LARGE = request("a text", user="x" * SMALL_BODY)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (head("GET /livez"), 200),
        (head("GET /v1/embeddings"), 405),
        (request("a text", "POST /v1/embedding"), 404),
        (request("a text", EMBED, "X-Request-Timeout-Ms: soon"), 400),
        (request(None, EMBED, WHOLE_WAY), 400),
        (LARGE, 429),
        (request("a text", EMBED, "Connection: close"), 429),
    ],
)
async def test_what_wants_another_answer_gets_it(serve: Serve, data: bytes, status: int) -> None:
    async with full(serve) as server:
        [answer] = await exchange(server, data)
        assert status_of(answer) == status
        assert (b"connection: close" in answer.lower()) == (b"Connection: close" in data)


async def test_who_would_still_be_answered_in_time_is_let_in(serve: Serve) -> None:
    """The model is at a request that takes it longer than one client waits, and less than another."""
    async with full(serve, max_queued_requests=None) as server:
        model = server.context.models.named(None)
        model.admission.engine_tokens_per_second = lambda: model.admission.interactive.tokens / 10
        hurried, still_hurried = request("a text", EMBED, HURRIED), request("a text", EMBED, HURRIED, WHOLE_WAY)
        assert [status_of(answer) for answer in await exchange(server, hurried, still_hurried)] == [429, 429]
        assert counted(server, "refused", "deadline", "interactive") == 2
        with await asyncio.to_thread(
            connection, server.port, request("a text", EMBED, "X-Request-Timeout-Ms: 60000")
        ) as client:
            await server.until_admitted(2)
            server.model.gate.set()
            assert status_of(await asyncio.to_thread(read_answer, client)) == 200


async def test_nobody_is_refused_by_the_head_while_another_model_has_room(serve: Serve) -> None:
    async with full(serve) as server:
        model = server.context.models.named(None)
        other = dataclasses.replace(model, names=("other",), admission=dataclasses.replace(model.admission))
        other.admission.interactive = Held()
        server.context.models.replace([model, other])
        assert [status_of(answer) for answer in await exchange(server, BROKEN, QUERY)] == [400, 429]


async def test_refusals_are_written_into_the_request_log(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    async with full(serve, log_requests=True) as server:
        [answer] = await exchange(server, request("a text", EMBED, "X-Request-Id: refused-one"))
        assert status_of(answer) == 429
    assert "refused-one" in str([record.msg for record in caplog.records])


async def test_those_that_come_at_once_are_counted_before_they_are_admitted(serve: Serve) -> None:
    """There is room for one: of many that are read in one turn of the loop, one is looked at."""
    async with full(serve, max_queued_requests=None, max_queued_tokens=100) as server:
        plain = plain_head(request("x" * 800))
        assert plain is not None
        early = EarlyRefusal(server.context)
        answers = [early.answer(plain) for _ in range(3)]
        assert [answer is None for answer in answers] == [True, False, False]
        await asyncio.sleep(0)  # they would have been admitted in this turn, or not
        assert early.answer(plain) is None
