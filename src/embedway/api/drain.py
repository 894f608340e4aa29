"""What a server that is about to end says: no to new requests, while those it has accepted finish."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedway.api.error_response import error_response
from embedway.errors import ShuttingDown

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

SERVED_WHILE_DRAINING = frozenset({"/livez", "/metrics"})
"""It is alive until its end, and whoever counts its requests wants to see the last of them"""


class Drain:
    """Whether this process is draining: written by the server alone, once."""

    has_begun = False


class RefuseWhileDraining:
    """ASGI middleware: once the drain has begun, every request that is not inside it yet is answered with a 503."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._drain.has_begun and scope["type"] == "http" and scope["path"] not in SERVED_WHILE_DRAINING:
            response = error_response(ShuttingDown())
            response.headers["Connection"] = "close"  # the next request is for another server
            await response(scope, receive, send)
        else:
            await self._app(scope, receive, send)
