from __future__ import annotations

import asyncio

import httpx
import pytest
from starlette.responses import PlainTextResponse

from embedway.api.drain import Drain, RefuseWhileDraining
from embedway.api.request_context import RequestContext
from embedway.observability.metrics import Metrics


class HeldApp:
    """Answers once the test lets it."""

    def __init__(self) -> None:
        self.has_begun, self.may_end = asyncio.Event(), asyncio.Event()

    async def __call__(self, scope, receive, send) -> None:
        self.has_begun.set()
        await self.may_end.wait()
        await PlainTextResponse("done")(scope, receive, send)


def client_of(app: HeldApp, drain: Drain) -> httpx.AsyncClient:
    layered = RequestContext(RefuseWhileDraining(app, drain), metrics=Metrics(), drain=drain)
    return httpx.AsyncClient(transport=httpx.ASGITransport(layered), base_url="http://test")


async def test_a_drain_refuses_what_is_new_and_finishes_what_was_accepted() -> None:
    app, drain = HeldApp(), Drain()
    async with client_of(app, drain) as client:
        accepted = asyncio.create_task(client.post("/v1/embeddings"))
        await app.has_begun.wait()
        drain.has_begun = True
        refused = await asyncio.wait_for(client.post("/v1/embeddings"), 30)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
        assert int(refused.headers["Retry-After"]) > 0
        assert refused.headers["Connection"] == "close"
        app.may_end.set()
        assert (await accepted).text == "done"


@pytest.mark.parametrize(("path", "status"), [("/readyz", 503), ("/health", 503), ("/livez", 200), ("/metrics", 200)])
async def test_a_draining_server_is_alive_but_not_ready(path: str, status: int) -> None:
    app, drain = HeldApp(), Drain()
    app.may_end.set()
    drain.has_begun = True
    async with client_of(app, drain) as client:
        assert (await client.get(path)).status_code == status


async def test_whatever_a_request_waits_for_at_the_end_of_the_drain_it_gets_an_error_and_no_silence() -> None:
    app, drain = HeldApp(), Drain()
    async with client_of(app, drain) as client:
        cut_off = asyncio.create_task(client.post("/v1/embeddings"))
        await app.has_begun.wait()
        drain.has_begun = True
        cut_off.cancel()  # as uvicorn does
        answer = await cut_off
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "shutting_down")
