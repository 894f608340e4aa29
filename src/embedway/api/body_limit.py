"""Refuse bodies over a limit: before they are read where a length is declared, while they are read where not.

One limit is for each body, another for all large ones that this process holds. A request holds its body to its end:
what this process keeps of it is about as large (a worker that parses it has a limit of its own).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedway.api.body_memory import BodyLease, BodyMemory
from embedway.api.error_response import error_response
from embedway.api.headers import header
from embedway.errors import BodyTooLarge, ServerOverloaded

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

SMALL_BODY = 2**16
"""Bytes of each body that count for nothing: bulk cannot take the room of queries, and connections have a limit, too"""


class BodyLimit:
    """ASGI middleware. Routes at the `streamed` paths keep no body that is posted, and have limits of their own."""

    def __init__(
        self, app: ASGIApp, *, max_bytes: int, memory: BodyMemory, streamed: frozenset[str] = frozenset()
    ) -> None:
        self._app = app
        self._streamed = streamed
        self._max_bytes = max_bytes
        self._memory = memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (scope["path"] in self._streamed and scope["method"] == "POST"):
            await self._app(scope, receive, send)
            return
        # The HTTP parser has refused lengths that are no numbers, and two that differ.
        declared = int(header(scope, b"content-length") or 0)
        try:
            self._check(declared)
        except (BodyTooLarge, ServerOverloaded) as error:
            await error_response(error)(scope, receive, send)
            return
        with BodyLease(self._memory) as lease:
            num_read = 0

            async def receive_counted() -> Message:
                nonlocal num_read
                message = await receive()
                num_read += (num_bytes := len(message.get("body", b"")))
                if num_read > self._max_bytes:
                    raise BodyTooLarge(limit=self._max_bytes)
                if num_read > SMALL_BODY:
                    lease.grow(min(num_bytes, num_read - SMALL_BODY))
                return message

            await self._app(scope, receive_counted, send)

    def _check(self, declared: int) -> None:
        if declared > self._max_bytes:
            raise BodyTooLarge(limit=self._max_bytes)
        if declared > SMALL_BODY:
            self._memory.check(declared - SMALL_BODY)
