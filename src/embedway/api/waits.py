"""Answers that are awaited until the client has gone, its deadline has come, or the operator ends the request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from starlette.requests import ClientDisconnect

from embedway.api.collector_rest import CollectorRest
from embedway.api.context import context_of
from embedway.api.error_response import request_id_of
from embedway.errors import DeadlineExceeded, RequestAborted

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive

    from embedway.api.deadline import Deadline

ResultT = TypeVar("ResultT")
EndCause: TypeAlias = Literal["disconnect", "deadline", "abort"]

WATCH_AFTER_SECONDS = 0.1
"""Most requests are answered before: to watch every one would cost them more than some lost ones cost the engine."""


@dataclass(slots=True, eq=False)
class Wait:
    """The wait for one answer."""

    request_ids: tuple[str, ...]
    answer: asyncio.Future[Any]
    ended_by: Exception | None = None
    """Why the answer was given up. Written by `end`."""
    timers: list[asyncio.TimerHandle] = field(default_factory=list)
    watcher: asyncio.Task[None] | None = None

    def end(self, cause: Exception) -> None:
        """Give the answer up, if it is not there yet: what is done for it is cancelled."""
        if self.ended_by is None and self.answer.cancel():
            self.ended_by = cause

    def expire(self, deadline: Deadline) -> None:
        self.end(deadline.error())

    def watch(self, receive: Receive) -> None:
        self.watcher = asyncio.ensure_future(self._end_on_disconnect(receive))

    def close(self) -> None:
        """It is over. A watcher that is cancelled keeps its frame, and this wait with that: it is let go of."""
        for timer in self.timers:
            timer.cancel()
        if self.watcher is not None:
            self.watcher.cancel()
            self.watcher = None

    async def _end_on_disconnect(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.end(ClientDisconnect())


CAUSES: dict[type[Exception], EndCause] = {
    ClientDisconnect: "disconnect",
    DeadlineExceeded: "deadline",
    RequestAborted: "abort",
}


@dataclass(slots=True, eq=False)
class Waits:
    """All that one API process waits for. Belongs to its event loop."""

    on_end: Callable[[EndCause], object]
    """Told of each wait that ended before its answer"""
    _waits: set[Wait] = field(default_factory=set)
    _collector: CollectorRest = field(default_factory=CollectorRest)

    async def result(
        self,
        request: Request,
        answer: asyncio.Future[ResultT],
        *,
        request_ids: tuple[str, ...],
        deadline: Deadline | None = None,
    ) -> ResultT:
        """The result of `answer`. Raises ClientDisconnect, DeadlineExceeded or RequestAborted, and then cancels it.

        The request's body must have been read: from then on the server has only the disconnect to tell.
        """
        wait = self.begin(answer, request_ids, deadline)
        wait.timers.append(asyncio.get_running_loop().call_later(WATCH_AFTER_SECONDS, wait.watch, request.receive))
        try:
            return await answer
        except asyncio.CancelledError:
            if wait.ended_by is None:
                raise
            raise wait.ended_by from None
        finally:
            self.close(wait)
            # Both have the error that is raised, which has this frame: the request would stay until the garbage is
            # looked through, and that is seldom.
            del wait, answer

    def begin(self, answer: asyncio.Future[Any], request_ids: tuple[str, ...], deadline: Deadline | None) -> Wait:
        """Watch over an answer from now on, until its wait is closed."""
        wait = Wait(request_ids, answer)
        if deadline is not None:
            loop = asyncio.get_running_loop()
            wait.timers.append(loop.call_later(deadline.remaining_seconds(), wait.expire, deadline))
        self._waits.add(wait)
        self._collector.under_way(len(self._waits))
        return wait

    def close(self, wait: Wait) -> None:
        """The answer is there, or given up."""
        self._waits.remove(wait)
        self._collector.under_way(len(self._waits))
        wait.close()
        if wait.ended_by is not None:
            self.on_end(CAUSES[type(wait.ended_by)])

    def abort(self, request_id: str | None) -> None:
        """End the requests that have this id; None: all."""
        for wait in list(self._waits):
            if request_id is None or request_id in wait.request_ids:
                wait.end(RequestAborted())


async def waited_for(request: Request, work: Coroutine[Any, Any, ResultT], deadline: Deadline | None) -> ResultT:
    """The result of a route's work, as `Waits.result`."""
    return await context_of(request).waits.result(
        request,
        asyncio.ensure_future(work),
        request_ids=(request_id_of(request),),
        deadline=deadline,
    )
