"""The bodies of all requests together have a limit; who would pass it is refused, and costs the others nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.conftest import MODEL, Connect
from embedway.api.body_limit import SMALL_BODY
from embedway.api.body_memory import BodyLease, BodyMemory
from embedway.errors import ServerOverloaded

MIB = 2**20


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 60))))
def test_what_is_held_is_what_was_let_in_and_never_over_the_limit(growths: list[tuple[int, int]]) -> None:
    refusals: list[None] = []
    memory = BodyMemory(100, on_refusal=lambda: refusals.append(None))
    leases = [BodyLease(memory) for _ in range(5)]
    num_refused = 0
    for i, num_bytes in growths:
        try:
            leases[i].grow(num_bytes)
        except ServerOverloaded:
            num_refused += 1
        assert memory.held == sum(lease.num_bytes for lease in leases) <= 100
    assert len(refusals) == num_refused
    for lease in leases:
        with lease:
            pass
    assert memory.held == 0


def test_one_alone_is_let_in_however_large() -> None:
    BodyLease(BodyMemory(100, on_refusal=lambda: None)).grow(1000)


def body_of(num_bytes: int) -> bytes:
    return orjson.dumps({"model": MODEL, "input": "a", "other": "x" * num_bytes})


class SlowUpload:
    """A body of a client who stops before its last bytes until he is told."""

    def __init__(self, body: bytes) -> None:
        self.has_sent = asyncio.Event()
        self.may_end = asyncio.Event()
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._body[:-10]
        self.has_sent.set()
        await self.may_end.wait()
        yield self._body[-10:]


def upload(client: httpx.AsyncClient, content: SlowUpload | bytes) -> asyncio.Task[httpx.Response]:
    headers = {"Content-Type": "application/json"}
    return asyncio.ensure_future(client.post("/v1/embeddings", content=content, headers=headers))


async def test_of_many_slow_uploads_those_are_refused_that_find_no_room(connect: Connect) -> None:
    async with connect(body_memory_mb=3) as client:
        slow = [SlowUpload(body_of(MIB)) for _ in range(8)]
        waiting = [upload(client, content) for content in slow]
        refused = []
        while len(refused) < 5:
            refused = [task for task in waiting if task.done()]
            await asyncio.sleep(0.001)
        for task in refused:
            response = task.result()
            assert (response.status_code, response.json()["error"]["code"]) == (429, "server_overloaded")
            assert "--body-memory-mb" in response.json()["error"]["message"]
            assert response.headers["Retry-After"] == "1"

        assert (await upload(client, body_of(MIB))).status_code == 429  # by its declared length, before it is read
        assert (await upload(client, body_of(SMALL_BODY - 1000))).status_code == 200  # queries have room

        for content in slow:
            content.may_end.set()
        answers = [await task for task in waiting if task not in refused]
        assert [answer.status_code for answer in answers] == [200] * 3
        assert (await upload(client, body_of(2 * MIB))).status_code == 200  # all was given back
        counted = 'embedway_requests_refused_total{class="bulk",cause="memory"} 6'
        assert counted in (await client.get("/metrics")).text


@pytest.mark.parametrize("end", ["disconnect", "bad JSON"])
async def test_memory_is_given_back_however_a_request_ends(connect: Connect, end: str) -> None:
    async with connect(body_memory_mb=2) as client:
        content = SlowUpload(body_of(MIB))
        task = upload(client, content if end == "disconnect" else body_of(MIB)[:-1])
        if end == "disconnect":
            await content.has_sent.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            assert (await task).status_code == 400
        assert (await upload(client, body_of(2 * MIB - 1000))).status_code == 200
