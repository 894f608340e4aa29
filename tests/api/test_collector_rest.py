"""While much is under way the collector of garbage rests, and nobody else's wish about it is lost."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Generator

import pytest

from api.conftest import Serve
from api.protocol_server import connection, read_answer, request, serving
from embedway.api import collector_rest
from embedway.api.collector_rest import MOST_REQUESTS, CollectorRest


class Knot:
    """Refers to itself."""

    def __init__(self) -> None:
        self.own = self


@pytest.fixture(autouse=True)
def enabled() -> Generator[None]:
    assert gc.isenabled()
    yield
    assert gc.isenabled()


async def test_it_rests_while_many_requests_are_under_way(serve: Serve) -> None:
    async with serving(serve) as server:
        server.model.gate.clear()
        query = request("a text")
        clients = [await asyncio.to_thread(connection, server.port, query) for _ in range(MOST_REQUESTS)]
        await server.until_admitted(MOST_REQUESTS)
        assert gc.isenabled()
        clients.append(await asyncio.to_thread(connection, server.port, query))
        await server.until_admitted(MOST_REQUESTS + 1)
        assert not gc.isenabled()
        server.model.gate.set()
        for client in clients:
            assert (await asyncio.to_thread(read_answer, client)).startswith(b"HTTP/1.1 200 ")
            client.close()
        await server.until_idle()
        assert gc.isenabled()


def test_it_looks_all_the_same_once_too_much_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    rest = CollectorRest()
    rest.under_way(MOST_REQUESTS + 1)
    knots = [Knot() for _ in range(1000)]
    left = weakref.ref(knots[0])
    knots.clear()
    rest.under_way(MOST_REQUESTS + 2)
    assert left() is not None
    monkeypatch.setattr(collector_rest, "MOST_OBJECTS", 500)
    rest.under_way(MOST_REQUESTS + 3)
    assert left() is None
    assert not gc.isenabled()
    rest.under_way(MOST_REQUESTS)


def test_it_stays_off_where_somebody_else_has_switched_it_off() -> None:
    rest = CollectorRest()
    gc.disable()
    try:
        rest.under_way(MOST_REQUESTS + 1)
        rest.under_way(0)
        assert not gc.isenabled()
    finally:
        gc.enable()
