"""Refuse bodies over the limit: before they are read where a length is declared, while they are read where not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedway.api.error_response import error_response
from embedway.api.headers import header
from embedway.errors import BodyTooLarge

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimit:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # The HTTP parser has refused lengths that are no numbers, and two that differ.
        if int(header(scope, b"content-length") or 0) > self._max_bytes:
            await error_response(BodyTooLarge(limit=self._max_bytes))(scope, receive, send)
            return
        num_read = 0

        async def receive_counted() -> Message:
            nonlocal num_read
            message = await receive()
            num_read += len(message.get("body", b""))
            if num_read > self._max_bytes:
                raise BodyTooLarge(limit=self._max_bytes)
            return message

        await self._app(scope, receive_counted, send)
