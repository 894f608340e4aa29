"""The outermost layer of a request: its id, its metrics, and the answer to what nobody expected."""

from __future__ import annotations

import logging
import re
import time
import uuid
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect

from embedway.api.error_response import error_response
from embedway.api.headers import header
from embedway.errors import InternalFault

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from embedway.observability.metrics import Metrics

logger = logging.getLogger("embedway.api")

SAFE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


def is_safe_request_id(value: str) -> bool:
    """True for what may stand in a header and a log line as it is."""
    return SAFE_REQUEST_ID.fullmatch(value) is not None


class RequestContext:
    """ASGI middleware. Routes find the id in `scope["state"]["request_id"]`, and may replace it (the body's `rid`)."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["request_id"] = _given_request_id(scope) or uuid.uuid4().hex
        started_at, status = time.perf_counter(), 0

        async def send_with_request_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", state["request_id"].encode())]
            await send(message)

        try:
            with self._metrics.in_progress():
                await self._app(scope, receive, send_with_request_id)
        except ClientDisconnect:
            logger.debug("request %s: the client went away", state["request_id"])
        except Exception:
            logger.exception("request %s failed", state["request_id"])
            if status == 0:
                await error_response(InternalFault(request_id=state["request_id"]))(
                    scope, receive, send_with_request_id
                )
        finally:
            route = scope.get("route")
            path = route.path if route is not None else "unknown"
            self._metrics.request_done(path, status, time.perf_counter() - started_at)


def _given_request_id(scope: Scope) -> str | None:
    given = header(scope, b"x-request-id")
    return given if given is not None and is_safe_request_id(given) else None
