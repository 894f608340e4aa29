"""Answers that are awaited only as long as the client is there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from starlette.requests import ClientDisconnect, Request

if TYPE_CHECKING:
    from starlette.types import Receive

ResultT = TypeVar("ResultT")

WATCH_AFTER_SECONDS = 0.1
"""Most requests are answered before: to watch every one would cost them more than some lost ones cost the engine."""


async def unless_disconnected(request: Request, answer: asyncio.Future[ResultT]) -> ResultT:
    """The result of `answer`; where the client goes first, cancel it and raise ClientDisconnect.

    The request's body must have been read: from then on the server has only the disconnect to tell.
    """
    watchers: list[asyncio.Task[None]] = []

    def watch() -> None:
        watchers.append(asyncio.ensure_future(_cancel_on_disconnect(request.receive, answer)))

    timer = asyncio.get_running_loop().call_later(WATCH_AFTER_SECONDS, watch)
    try:
        return await answer
    except asyncio.CancelledError:
        if any(watcher.done() for watcher in watchers):
            raise ClientDisconnect from None
        raise
    finally:
        timer.cancel()
        for watcher in watchers:
            watcher.cancel()


async def _cancel_on_disconnect(receive: Receive, answer: asyncio.Future[ResultT]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    answer.cancel()
