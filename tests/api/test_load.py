"""What a loaded server does with requests: refuses them at the door, ends them in time, or answers them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from typing import Any

import httpx
import pytest
import uvicorn

from embedway.inputs.sequences import SequenceMaker
from running_engine import GatedModel

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
Connect = Callable[..., contextlib.AbstractAsyncContextManager[httpx.AsyncClient]]
QUERY: dict[str, object] = {"model": MODEL, "input": "a short query"}
BULK: dict[str, object] = {"model": MODEL, "input": [[5] * 200] * 8}
ADMIN = {"Authorization": "Bearer admin"}


@pytest.fixture
async def model() -> AsyncGenerator[GatedModel]:
    model = GatedModel()
    yield model
    model.gate.set()


@contextlib.asynccontextmanager
async def gated(connect: Connect, model: GatedModel, **settings: Any) -> AsyncGenerator[httpx.AsyncClient]:
    """A server whose engine is at a batch until the gate is opened."""
    async with connect(model=model, admin_api_key="admin", **settings) as client:

        async def keep_busy() -> None:
            while not model.has_begun.is_set():  # on a busy machine a short --request-timeout may pass before
                await post(client, {"model": MODEL, "input": [[7]]})

        try:
            busy = asyncio.create_task(keep_busy())
            await until(client, lambda info: model.has_begun.is_set())
            yield client
        finally:
            model.gate.set()
            await busy


async def post(client: httpx.AsyncClient, body: Mapping[str, object], **headers: str) -> httpx.Response:
    return await client.post("/v1/embeddings", json=body, headers=headers)


def code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


async def until(client: httpx.AsyncClient, condition: Callable[[dict[str, Any]], bool]) -> None:
    """Wait for what /server_info shows."""

    async def poll() -> None:
        while not condition((await client.get("/server_info")).json()):
            await asyncio.sleep(0.005)

    await asyncio.wait_for(poll(), 30)


def queued(info: dict[str, Any]) -> int:
    return info["engines"][0]["queued_requests"]


def held(info: dict[str, Any]) -> list[int]:
    return [info["admission"][name][what] for name in ("interactive", "bulk") for what in ("requests", "tokens")]


async def metric(client: httpx.AsyncClient, sample: str) -> float:
    lines = (await client.get("/metrics")).text.splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(sample)), 0.0)


# ── admission ──


async def test_at_twenty_times_the_load_each_request_gets_its_vectors_or_a_429_and_queries_get_through(
    connect: Connect, model: GatedModel
) -> None:
    async with gated(connect, model, max_queued_tokens=8000) as client:
        bulk = [asyncio.create_task(post(client, BULK)) for _ in range(100)]
        queries = [asyncio.create_task(post(client, QUERY)) for _ in range(100)]
        # those that are refused have their answers while the engine stands still
        await until(client, lambda info: sum(task.done() for task in bulk) == 97)
        assert not any(task.done() for task in queries)
        model.gate.set()
        answers = await asyncio.gather(*bulk)
        assert [answer.status_code for answer in await asyncio.gather(*queries)] == [200] * 100
        assert sorted(answer.status_code for answer in answers) == [200] * 3 + [429] * 97
        for refused in (answer for answer in answers if answer.status_code == 429):
            assert refused.json()["error"]["type"] == "rate_limit_error"
            assert refused.json()["error"]["code"] == "server_overloaded"
            assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert await metric(client, 'embedway_requests_refused_total{class="bulk",cause="tokens"}') == 97
        await until(client, lambda info: held(info) == [0, 0, 0, 0])


async def test_what_is_refused_does_not_wait_behind_what_is_tokenized(
    connect: Connect, model: GatedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gated(connect, model, max_queued_requests=4) as client:
        with blocked_tokenizing(monkeypatch) as begun:
            admitted = [asyncio.create_task(post(client, long_text())) for _ in range(3)]
            await until(client, lambda info: begun.is_set() and info["admission"]["bulk"]["requests"] == 3)
            assert code(await asyncio.wait_for(post(client, long_text()), 30)) == (429, "server_overloaded")
        model.gate.set()
        assert [answer.status_code for answer in await asyncio.gather(*admitted)] == [200] * 3


def long_text() -> dict[str, object]:
    """One that is tokenized in a thread, and is bulk."""
    return {"model": MODEL, "input": ["word " * 20] * 70}


@contextlib.contextmanager
def blocked_tokenizing(monkeypatch: pytest.MonkeyPatch) -> Generator[threading.Event]:
    """Large requests stay in the tokenizer until the end of the block; yields an event for the first."""
    begun, gate = threading.Event(), threading.Event()
    really_make = SequenceMaker.make

    def make(maker: SequenceMaker, items: Any, *others: Any) -> Any:
        if items.size > 4096:
            begun.set()
            assert gate.wait(30)
        return really_make(maker, items, *others)

    monkeypatch.setattr(SequenceMaker, "make", make)
    try:
        yield begun
    finally:
        gate.set()


async def test_an_estimate_gives_way_to_the_real_count(connect: Connect, model: GatedModel) -> None:
    async with gated(connect, model) as client:
        texts = asyncio.create_task(post(client, {"model": MODEL, "input": ["你好世界" * 10] * 4}))
        await until(client, lambda info: queued(info) == 1)
        await until(client, lambda info: held(info)[:2] == [2, 1 + 4 * 42])
        model.gate.set()
        assert (await texts).json()["usage"]["prompt_tokens"] == 4 * 42


async def test_a_refused_request_takes_no_room(connect: Connect, model: GatedModel) -> None:
    async with gated(connect, model) as client:
        assert code(await post(client, {"model": MODEL, "input": [10**9]})) == (400, "invalid_token_id")
        assert code(await post(client, {"model": MODEL, "input": [[7] * 1000] * 4})) == (400, "context_length_exceeded")
        await until(client, lambda info: held(info) == [1, 1, 0, 0])


# ── deadlines ──


@pytest.mark.parametrize("path", ["/v1/embeddings", "/encode"])
async def test_a_deadline_ends_a_request_that_waits_in_the_queue_which_then_never_runs(
    connect: Connect, model: GatedModel, path: str
) -> None:
    async with gated(connect, model) as client:
        body = {"model": MODEL, "timeout_ms": 50, "text" if path == "/encode" else "input": "late"}
        late = await asyncio.wait_for(client.post(path, json=body), 30)
        assert code(late) == (504, "deadline_exceeded")
        assert late.json()["error"]["type"] == "timeout_error"
        await until(client, lambda info: queued(info) == 0 and held(info) == [1, 1, 0, 0])
        assert await metric(client, 'embedway_requests_ended_total{cause="deadline"}') == 1
    assert sum(batch.num_sequences for batch in model.batches) == 1


async def test_a_deadline_ends_a_request_that_the_model_is_at(connect: Connect) -> None:
    model = GatedModel()
    async with connect(model=model) as client:
        late = await asyncio.wait_for(post(client, {**QUERY, "timeout_ms": 1000}), 30)
        assert code(late) == (504, "deadline_exceeded")
        assert model.has_begun.is_set()
        model.gate.set()
        assert (await post(client, QUERY)).status_code == 200


async def test_a_deadline_ends_a_request_that_is_tokenized(
    connect: Connect, model: GatedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gated(connect, model) as client:
        with blocked_tokenizing(monkeypatch):
            late = await asyncio.wait_for(post(client, {**long_text(), "timeout_ms": 50}), 30)
        assert code(late) == (504, "deadline_exceeded")
        await until(client, lambda info: held(info) == [1, 1, 0, 0])


async def test_the_smallest_of_body_header_and_setting_is_the_deadline(connect: Connect, model: GatedModel) -> None:
    async with gated(connect, model, request_timeout=5000) as client:
        for body, headers, shown in (
            ({**QUERY, "timeout_ms": 41}, {"X-Request-Timeout-Ms": "1000000"}, "within 41 ms"),
            ({**QUERY, "timeout_ms": 1_000_000}, {"X-Request-Timeout-Ms": "42"}, "within 42 ms"),
        ):
            late = await asyncio.wait_for(client.post("/v1/embeddings", json=body, headers=headers), 30)
            assert shown in late.json()["error"]["message"]
    async with gated(connect, GatedModel(), request_timeout=1.0) as client:  # time for the batch to begin
        late = await asyncio.wait_for(post(client, {**QUERY, "timeout_ms": 1_000_000}), 30)
        assert "within 1000 ms" in late.json()["error"]["message"]


@pytest.mark.parametrize("value", ["soon", "0", "-1", "1.5", "1" * 50, "", "\u0661".encode().decode("latin-1")])
async def test_a_header_that_is_no_time_is_a_400(client: httpx.AsyncClient, value: str) -> None:
    headers = {b"X-Request-Timeout-Ms": value.encode("latin-1"), b"Content-Type": b"application/json"}
    response = await client.post(
        "/v1/embeddings", content=b'{"model": "%s", "input": "a"}' % MODEL.encode(), headers=headers
    )
    assert code(response) == (400, "invalid_value")
    assert response.json()["error"]["param"] == "X-Request-Timeout-Ms"


async def test_a_deadline_that_is_kept_changes_nothing(client: httpx.AsyncClient) -> None:
    plain = await post(client, QUERY)
    assert (await post(client, {**QUERY, "timeout_ms": 10**9})).json() == plain.json()


# ── ends by others ──


async def test_a_client_that_goes_away_leaves_the_queue_within_the_batch_that_runs(
    connect: Connect, model: GatedModel
) -> None:
    async with gated(connect, model) as client, over_tcp(client) as port:
        body = b'{"model": "%s", "input": [[1, 2, 3]]}' % MODEL.encode()
        head = "POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}"
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head.encode() + b"\r\n\r\n" + body)
        await until(client, lambda info: queued(info) == 1)
        writer.close()
        await until(client, lambda info: queued(info) == 0)  # the gate is shut: no other batch has begun
        await until(client, lambda info: held(info) == [1, 1, 0, 0])
        assert await metric(client, 'embedway_requests_ended_total{cause="disconnect"}') == 1


@contextlib.asynccontextmanager
async def over_tcp(client: httpx.AsyncClient) -> AsyncGenerator[int]:
    """The same server on a port of loopback."""
    assert isinstance(client._transport, httpx.ASGITransport)
    config = uvicorn.Config(client._transport.app, port=0, ws="none", lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await running


async def test_an_operator_ends_a_request_by_its_id_and_no_other(connect: Connect, model: GatedModel) -> None:
    async with gated(connect, model) as client:
        doomed = [
            asyncio.create_task(post(client, {**QUERY, "rid": "mine"})),
            asyncio.create_task(post(client, QUERY, **{"X-Request-Id": "mine"})),
            asyncio.create_task(client.post("/encode", json={"text": ["a", "b"], "rid": ["other", "mine"]})),
        ]
        kept = asyncio.create_task(post(client, {**QUERY, "rid": "mine-too"}))
        await until(client, lambda info: queued(info) == 4)
        for rid in ("unknown", "", None):
            assert (await client.post("/abort_request", json={"rid": rid}, headers=ADMIN)).status_code == 200
        assert (await client.post("/abort_request", json={"rid": "mine"}, headers=ADMIN)).status_code == 200
        for answer in await asyncio.wait_for(asyncio.gather(*doomed), 30):
            assert code(answer) == (409, "request_aborted")
            assert answer.headers["x-should-retry"] == "false"
        await until(client, lambda info: queued(info) == 1)
        model.gate.set()
        assert (await kept).status_code == 200
        assert await metric(client, 'embedway_requests_ended_total{cause="abort"}') == 3


async def test_an_operator_ends_all_requests_wherever_they_are(
    connect: Connect, model: GatedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connect(model=model, admin_api_key="admin") as client:
        running = asyncio.create_task(post(client, QUERY))
        await until(client, lambda info: model.has_begun.is_set())
        with blocked_tokenizing(monkeypatch) as begun:
            tokenized = asyncio.create_task(post(client, long_text()))
            await until(client, lambda info: begun.is_set())
            assert (await client.post("/abort_request", json={"abort_all": True}, headers=ADMIN)).status_code == 200
            for answer in await asyncio.wait_for(asyncio.gather(running, tokenized), 30):
                assert code(answer) == (409, "request_aborted")
        model.gate.set()
        assert (await post(client, QUERY)).status_code == 200


async def test_only_the_admin_may_end_requests(connect: Connect) -> None:
    async with connect() as client:
        assert code(await client.post("/abort_request", json={"abort_all": True})) == (403, "admin_only")
    async with connect(admin_api_key="admin") as client:
        assert code(await client.post("/abort_request", json={"abort_all": True})) == (401, "invalid_api_key")


# ── priorities ──


@pytest.mark.parametrize(
    ("settings", "first"),
    [
        ({}, 5),
        ({"schedule_low_priority_values_first": True}, -5),
        ({"default_priority_value": 7}, None),
        ({"default_priority_value": -7, "schedule_low_priority_values_first": True}, None),
    ],
)
async def test_the_request_of_the_best_priority_runs_first(
    connect: Connect, model: GatedModel, settings: dict[str, object], first: int | None
) -> None:
    async with gated(connect, model, **settings) as client:
        token_ids = {0: 20, -5: 21, None: 22, 5: 23}
        tasks = []
        for i, (priority, token_id) in enumerate(token_ids.items(), 1):
            body = {"model": MODEL, "input": [[token_id] * 250], "priority": priority}  # it fills a batch
            tasks.append(asyncio.create_task(post(client, body)))
            await until(client, lambda info, i=i: queued(info) == i)
        model.gate.set()
        await asyncio.gather(*tasks)
    assert model.batches[1].token_ids[0] == token_ids[first]


async def test_the_smallest_priority_may_be_turned_round(connect: Connect) -> None:
    async with connect(schedule_low_priority_values_first=True) as client:
        for priority in (-(2**63), 2**63 - 1):
            assert (await post(client, {**QUERY, "priority": priority})).status_code == 200
