"""An answer of JSON that was written in pieces, and is sent in pieces: as fast as its client reads it."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import Receive, Scope, Send

JOINED_BYTES = 2**16
"""More is not copied into one piece"""


def response_of(pieces: list[bytes]) -> Response:
    """One write where it is short."""
    if sum(map(len, pieces)) <= JOINED_BYTES:
        return Response(b"".join(pieces), media_type="application/json")
    return PiecesResponse(pieces)


class PiecesResponse(Response):
    """Its length is known from the start, so that clients of HTTP/1.0 understand it as well."""

    media_type = "application/json"

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = deque(pieces)
        super().__init__(headers={"Content-Length": str(sum(map(len, self._pieces)))})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        while self._pieces:
            body = self._pieces.popleft()  # what is sent is freed
            await send({"type": "http.response.body", "body": body, "more_body": bool(self._pieces)})
            await asyncio.sleep(0)  # others' turn; and only then does the transport say whether the client keeps up
