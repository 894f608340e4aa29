"""Bearer keys: every route is closed but the three that an orchestrator probes."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import TYPE_CHECKING

from embedway.api.error_response import error_response
from embedway.api.headers import header
from embedway.errors import InvalidApiKey

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

OPEN_PATHS = frozenset({"/health", "/livez", "/readyz"})


class BearerAuth:
    """ASGI middleware. Keys are held as SHA-256 digests and compared in constant time, all of them every time."""

    def __init__(self, app: ASGIApp, *, keys: Sequence[str]) -> None:
        self._app = app
        self._digests = [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or (problem := self._problem(scope)) is None:
            await self._app(scope, receive, send)
        else:
            await error_response(InvalidApiKey(problem=problem))(scope, receive, send)

    def _problem(self, scope: Scope) -> str | None:
        given = header(scope, b"authorization")
        if given is None:
            return "This server needs an API key, and the request has none"
        scheme, _, key = given.partition(" ")
        if scheme.lower() != "bearer":
            return "This server needs an API key as a bearer token"
        digest = _digest(key.encode("latin-1").strip())
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return None if any(matches) else "The API key is wrong"


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
