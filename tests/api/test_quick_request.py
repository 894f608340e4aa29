"""What is answered without the framework gets the answer of the whole way, and leaves the same behind."""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import re
import socket
from typing import cast

import pytest
from openai import OpenAI

from api.conftest import MODEL, Serve
from api.protocol_server import EMBED, Server, connection, exchange, head, read_answer, request, say, serving
from embedway.api import http_protocol, quick_request
from embedway.api.http_protocol import HttpProtocol
from embedway.api.quick_request import QuickRequest, QuickRequests
from fake_model import POISON_ID

WHOLE_WAY = "Origin: http://elsewhere"
ENCODE = "POST /encode"


@pytest.fixture(autouse=True)
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each request that might be answered quickly, whether it was."""
    results: list[bool] = []
    take = QuickRequests.take

    def watched(self: QuickRequests, *args: object) -> QuickRequest | None:
        quick = take(self, *args)  # ty: ignore[invalid-argument-type]
        results.append(quick is not None)
        return quick

    monkeypatch.setattr(QuickRequests, "take", watched)
    return results


def parts_of(answer: bytes) -> tuple[bytes, set[bytes], object]:
    """Status line, headers and body, without what differs from one request to the next."""
    start, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = start.split(b"\r\n")
    assert b"content-length: %d" % len(body) in lines
    own = re.compile(rb"(date|x-request-id|content-length): ", re.IGNORECASE)
    value = json.loads(re.sub(rb'"(id|e2e_latency)":("[^"]*"|[0-9.e-]+)', rb'"\1":0', body))
    return status, {line.lower() for line in lines if not own.match(line)}, value


def with_line(data: bytes, line: str) -> bytes:
    start, end = data.split(b"\r\n", 1)
    return b"\r\n".join((start, line.encode(), end))


PLAIN = {
    "a text": request("a text"),
    "texts": request(["a", "b b", "c"]),
    "token ids": request([101, 102]),
    "lists of token ids": request([[101, 102], [101, 7, 102]]),
    "base64": request("a text", encoding_format="base64"),
    "dimensions that are the model's own": request("a text", dimensions=8),
    "dimensions that it does not have": request("a text", dimensions=3),
    "another type of numbers": request("a text", output_dtype="int8"),
    "not normalised": request("a text", normalize=False),
    "/encode": request("a text", ENCODE, text="a text"),
    "/encode of token ids": request(None, ENCODE, input_ids=[[101, 102]]),
    "an id of its own": request("a text", rid="number-1"),
    "ids of its items": request(["a", "b"], rid=["number-1", "number-2"]),
    "too few ids": request(["a", "b"], rid=["number-1"]),
    "an id that cannot be written": request("a text", rid="\r\n"),
    "a priority": request("a text", priority=3),
    "a deadline": request("a text", timeout_ms=60_000),
    "a deadline in the head": request("a text", EMBED, "X-Request-Timeout-Ms: 60000"),
    "a wrong deadline in the head": request("a text", EMBED, "X-Request-Timeout-Ms: soon"),
    "a connection that is kept": request("a text", EMBED, "Connection: Keep-Alive"),
    "an unknown field": request("a text", colour="red"),
    "no model of ours": request("a text", model="another"),
    "no input": request(None),
    "an empty text": request(""),
    "a wrong type": request({}),
    "too long": request("word " * 600),
    "cut": request("word " * 600, truncate="end"),
    "an unknown prompt": request("a text", prompt_name="none"),
    "token ids that there are not": request([[10**9]]),
    "no JSON": head(EMBED, "Content-Type: application/json", "Content-Length: 1") + b"{",
    "no body": head(EMBED, "Content-Type: application/json", "Content-Length: 0"),
    "the model raises": request([[POISON_ID]]),
}
OTHERS = {
    "an adapter": request("a text", model=f"{MODEL}:none"),
    "an adapter by path": request("a text", lora_path="none"),
    "an image": request([{"image": "data:,"}]),
    "many items": request(["a"] * 600),
    "long texts": request("a " * 9000, truncate="end"),
    "no JSON by its head": request("a text").replace(b"application/json", b"text/plain"),
    "a charset": request("a text").replace(b"application/json", b"Application/JSON; charset=utf-8"),
    "a strange host": request("a text").replace(b"localhost", b"elsewhere"),
}


@pytest.mark.parametrize("data", [*PLAIN.values(), *OTHERS.values()], ids=[*PLAIN, *OTHERS])
async def test_the_answer_is_that_of_the_whole_way(serve: Serve, data: bytes, taken: list[bool]) -> None:
    async with serving(serve) as server:
        server.state.default_headers = [(b"date", b"today")]  # as uvicorn's server does
        quick, whole = await exchange(server, data, with_line(data, WHOLE_WAY))
        assert parts_of(quick) == parts_of(whole)
        if data in PLAIN.values():
            assert taken == [True]
        assert b"\r\ndate: today\r\n" in quick
        await server.until_idle()
        assert server.context.metrics.totals()["embedway_requests_in_progress"] == 0


async def test_what_is_counted_is_the_same(serve: Serve) -> None:
    counts = []
    for line in ("X-Nothing: 1", WHOLE_WAY):
        async with serving(serve) as server:
            for data in PLAIN.values():
                await exchange(server, with_line(data, line))
            await server.until_idle()
            totals = server.context.metrics.totals()
            counts.append({name: n for name, n in totals.items() if "_sum" not in name and "_bucket" not in name})
    assert counts[0] == counts[1]


@pytest.mark.parametrize("headers", [["X-Request-Id: mine-1"], ["X-Request-Id: mine-1", WHOLE_WAY]])
async def test_the_id_is_the_clients_own(serve: Serve, headers: list[str]) -> None:
    async with serving(serve) as server:
        [one, other] = await exchange(
            server, request("a text", EMBED, *headers), request("a text", EMBED, *headers, rid="yours")
        )
        assert b"x-request-id: mine-1\r\n" in one
        assert b"x-request-id: yours\r\n" in other


def connections(server: Server) -> list[HttpProtocol]:
    return [cast("HttpProtocol", one) for one in server.state.connections]


BEHIND_HEAD = request("a text").index(b"\r\n\r\n") + 4


@pytest.mark.usefixtures("patient")
async def test_openais_client_is_answered_quickly(serve: Serve, taken: list[bool]) -> None:
    async with serving(serve, api_key=["secret"]) as server:
        with OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="secret") as client:
            for given in ("a text", ["a text", "another"]):
                answer = await asyncio.to_thread(client.embeddings.create, model=MODEL, input=given)
                assert len(answer.data) == (1 if isinstance(given, str) else 2)
    assert taken == [True, True]


@pytest.mark.parametrize("cut", [3, BEHIND_HEAD - 2])
async def test_a_head_that_comes_in_pieces_goes_the_whole_way(serve: Serve, taken: list[bool], cut: int) -> None:
    data = request("a text")
    async with serving(serve) as server:
        [whole] = await exchange(server, data)
        with await asyncio.to_thread(connection, server.port, data[:cut]) as client:
            await server.until(lambda: any(one.scope for one in connections(server)))
            answer = await asyncio.to_thread(say, client, data[cut:])
        assert parts_of(answer) == parts_of(whole)
        assert taken == [True]


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("cuts", [[BEHIND_HEAD], [BEHIND_HEAD + 1], [BEHIND_HEAD, BEHIND_HEAD + 1, BEHIND_HEAD + 5]])
@pytest.mark.parametrize("data", [request("a text"), PLAIN["no model of ours"], OTHERS["an adapter"]])
async def test_a_body_may_come_in_pieces(serve: Serve, taken: list[bool], data: bytes, cuts: list[int]) -> None:
    """Also with more behind it, and again on the same connection."""

    def until_closed(client: socket.socket) -> bytes:
        client.sendall(data[cuts[-1] :] + head("GET /livez", "Connection: close"))
        return b"".join(iter(lambda: client.recv(2**16), b""))

    async with serving(serve) as server:
        [whole] = await exchange(server, data)
        with await asyncio.to_thread(connection, server.port, b"") as client:

            async def send_all_but_last() -> None:
                for start, stop in itertools.pairwise([0, *cuts]):
                    client.sendall(data[start:stop])
                    await server.until(functools.partial(holds, server, stop))

            await send_all_but_last()
            assert parts_of(await asyncio.to_thread(say, client, data[cuts[-1] :])) == parts_of(whole)
            await send_all_but_last()
            answers = await asyncio.to_thread(until_closed, client)
            assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [whole.split()[1], b"200"]
        assert taken == [data != OTHERS["an adapter"]] * 3


def holds(server: Server, num_bytes: int) -> bool:
    """Some connection has so many bytes of a request, and neither parser nor application has them."""
    return any(one._held is not None and one._held.num_bytes == num_bytes for one in connections(server))


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server waits for the rest of a body as long as the test does."""
    monkeypatch.setattr(http_protocol, "HOLD_SECONDS", 60.0)


async def test_a_body_that_takes_longer_goes_the_whole_way(serve: Serve, taken: list[bool]) -> None:
    data = request("a text")
    async with serving(serve) as server:
        with await asyncio.to_thread(connection, server.port, data[:-1]) as client:
            await server.until(lambda: any(one.cycle is not None for one in connections(server)))
            assert (await asyncio.to_thread(say, client, data[-1:])).startswith(b"HTTP/1.1 200 ")
        assert taken == []


async def test_a_body_that_never_comes_is_told(serve: Serve) -> None:
    async with serving(serve, receive_timeout=0.05) as server:
        data = request("a text")
        with await asyncio.to_thread(connection, server.port, data[:-1]) as client:
            answer = await asyncio.to_thread(read_answer, client)
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b"connection: close\r\n" in answer
        await server.until_idle()


@pytest.mark.usefixtures("patient")
async def test_one_whose_body_comes_after_the_drain_has_begun_is_answered(serve: Serve) -> None:
    async with serving(serve) as server:
        data = request("a text")
        with await asyncio.to_thread(connection, server.port, data[:-1]) as client:
            await server.until(lambda: holds(server, len(data) - 1))
            server.context.drain.has_begun = True
            for one in connections(server):
                one.shutdown()
            assert (await asyncio.to_thread(say, client, data[-1:])).startswith(b"HTTP/1.1 503 ")
        await server.until_idle()


@pytest.mark.usefixtures("patient")
async def test_a_client_who_goes_within_a_body_leaves_nothing(serve: Serve) -> None:
    async with serving(serve) as server:
        data = request("a text")[:-1]
        with await asyncio.to_thread(connection, server.port, data):
            await server.until(lambda: holds(server, len(data)))
        await server.until_idle()
        assert server.context.metrics.totals()["embedway_requests_in_progress"] == 0


async def test_answers_keep_the_order_of_their_requests(serve: Serve, taken: list[bool]) -> None:
    ids = [f"X-Request-Id: number-{i}" for i in range(6)]
    lines = [[own, *([WHOLE_WAY] if i in (1, 4) else [])] for i, own in enumerate(ids)]
    together = b"".join(request("a text", EMBED, *own) for own in lines) + head("GET /livez", "Connection: close")
    async with serving(serve) as server:

        def read_all() -> bytes:
            with connection(server.port, together) as client:
                return b"".join(iter(lambda: client.recv(2**16), b""))

        answers = await asyncio.to_thread(read_all)
        assert re.findall(rb"number-\d", answers) == [b"number-%d" % i for i in range(6)]
        assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"200"] * 7
        assert taken == [True]  # all in one piece of data: the others may not hold the loop as well


async def test_keys_are_asked_for(serve: Serve, taken: list[bool]) -> None:
    async with serving(serve, api_key=["secret"]) as server:
        for headers, status in (
            (["Authorization: Bearer secret"], 200),
            (["Authorization: Bearer wrong"], 401),
            ([], 401),
        ):
            [answer] = await exchange(server, request("a text", EMBED, *headers))
            assert answer.startswith(b"HTTP/1.1 %d" % status)
        assert taken == [True, False, False]


@pytest.mark.parametrize("settings", [{"log_requests": True}])
async def test_requests_that_are_written_down_go_the_whole_way(
    serve: Serve, settings: dict[str, object], taken: list[bool]
) -> None:
    async with serving(serve, **settings) as server:
        [answer] = await exchange(server, request("a text"))
        assert answer.startswith(b"HTTP/1.1 200")
    assert taken == [False]


async def waiting(server: Server, data: bytes) -> socket.socket:
    """A client whose request waits for the model."""
    server.model.gate.clear()
    client = await asyncio.to_thread(connection, server.port, data)
    await server.until_admitted(1)
    return client


async def test_a_deadline_ends_the_wait(serve: Serve, taken: list[bool]) -> None:
    async with serving(serve) as server:
        with await waiting(server, request("a text", timeout_ms=30)) as client:
            answer = await asyncio.to_thread(read_answer, client)
            assert answer.startswith(b"HTTP/1.1 504")
            await server.until_admitted(0)
        server.model.gate.set()
        assert server.context.metrics.totals()['embedway_requests_ended_total{cause="deadline"}'] == 1
    assert taken == [True]


async def test_the_operator_ends_the_wait(serve: Serve) -> None:
    async with serving(serve) as server:
        with await waiting(server, request("a text", rid="this-one")) as client:
            server.context.waits.abort("this-one")
            assert (await asyncio.to_thread(read_answer, client)).startswith(b"HTTP/1.1 409")
        server.model.gate.set()


async def test_a_client_who_goes_ends_the_wait(serve: Serve) -> None:
    async with serving(serve) as server:
        with await waiting(server, request("a text")):
            pass
        await server.until_admitted(0)
        await server.until_idle()
        assert server.context.metrics.totals()['embedway_requests_ended_total{cause="disconnect"}'] == 1
        server.model.gate.set()


async def test_a_client_who_goes_with_more_behind_it_ends_all(serve: Serve) -> None:
    async with serving(serve) as server:
        with await waiting(server, request("a text") * 3):
            pass
        await server.until_idle()
        server.model.gate.set()
        assert server.context.metrics.totals()['embedway_requests_ended_total{cause="disconnect"}'] == 1


async def test_the_end_of_a_drain_is_told(serve: Serve) -> None:
    async with serving(serve) as server:
        with await waiting(server, request("a text")) as client:
            server.context.drain.has_begun = True
            for one in list(server.state.connections):
                one.shutdown()
            for task in list(server.state.tasks):  # as uvicorn does once its time is over
                task.cancel(msg="timeout")
            answer = await asyncio.to_thread(read_answer, client)
            assert answer.startswith(b"HTTP/1.1 503")
            assert b"connection: close\r\n" in answer
            await server.until_idle()
        server.model.gate.set()


async def test_what_nobody_expected_is_a_500_and_logged(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a secret path")

    async with serving(serve) as server:
        monkeypatch.setattr(quick_request, "parsed_here", fail)
        [early] = await exchange(server, request("a text", EMBED, "X-Request-Id: this-one"))
        monkeypatch.undo()
        monkeypatch.setattr("embedway.api.embedding_call.finish", fail)
        [late] = await exchange(server, request("a text", EMBED, "X-Request-Id: this-two"))
        for answer in (early, late):
            assert answer.startswith(b"HTTP/1.1 500")
            assert b"secret" not in answer
        assert [record.message for record in caplog.records if "failed" in record.message] == [
            "request this-one failed",
            "request this-two failed",
        ]
        await server.until_admitted(0)
