"""The outermost layer of a request: its id, its metrics, and the answer to what nobody expected."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Generator
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect

from embedway.api.auth import KEYLESS_PATHS
from embedway.api.error_response import error_response
from embedway.api.headers import header
from embedway.api_keys import NO_KEY
from embedway.errors import InternalFault, ShuttingDown
from embedway.observability.logs import in_request
from embedway.observability.request_log import RequestRecord
from embedway.observability.stage_clock import StageClock

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from embedway.api.drain import Drain
    from embedway.observability.metrics import Metrics
    from embedway.observability.request_log import RequestLog
    from embedway.observability.request_tracer import RequestTracer

logger = logging.getLogger("embedway.api")

ID_DIGITS = 32
IDS_AT_ONCE = 64
SAFE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


def is_safe_request_id(value: str) -> bool:
    """True for what may stand in a header and a log line as it is."""
    return SAFE_REQUEST_ID.fullmatch(value) is not None


def request_id_for(given: str | None) -> str:
    """The id that the client gives its request, or a new one where there is none, or none to be repeated."""
    return given if given is not None and is_safe_request_id(given) else next(_NEW_IDS)


def _new_ids() -> Generator[str]:
    """Nobody can guess them: who knows an id may end its request. Many at once, for each asks the system."""
    while True:
        digits = secrets.token_hex(ID_DIGITS // 2 * IDS_AT_ONCE)
        for first in range(0, len(digits), ID_DIGITS):
            yield digits[first : first + ID_DIGITS]


_NEW_IDS = _new_ids()


class RequestContext:
    """ASGI middleware. Routes find the id in `scope["state"]["request_id"]`, and may replace it (the body's `rid`)."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        drain: Drain,
        request_log: RequestLog | None = None,
        tracer: RequestTracer | None = None,
    ) -> None:
        self._app = app
        self._request_log = request_log
        self._tracer = tracer
        self._keeps_records = request_log is not None or tracer is not None
        self._metrics = metrics
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["request_id"] = request_id_for(header(scope, b"x-request-id"))
        state["clock"] = clock = StageClock()
        in_request(state)
        if self._keeps_records:
            state["record"] = RequestRecord()
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
        except asyncio.CancelledError:
            if status != 0 or not self._drain.has_begun:
                raise
            # The drain's time is over: whatever it waited for, its client gets a word.
            await error_response(ShuttingDown())(scope, receive, send_with_request_id)
        except Exception:
            logger.exception("request %s failed", state["request_id"])
            if status == 0:
                await error_response(InternalFault(request_id=state["request_id"]))(
                    scope, receive, send_with_request_id
                )
        finally:
            clock.end()
            self._tell(scope, status, started_at, clock)

    def _tell(self, scope: Scope, status: int, started_at: float, clock: StageClock) -> None:
        """The request is over: count it, and write down what is known of it where somebody wants that."""
        route = scope.get("route")
        path = route.path if route is not None else "unknown"
        seconds = time.perf_counter() - started_at
        self._metrics.request_done(path, status, seconds, clock.stages)
        if self._keeps_records and scope["path"] not in KEYLESS_PATHS:
            record = _completed(scope, path, status, seconds)
            if self._tracer is not None:
                self._tracer.trace(scope["headers"], record, started_at, clock.stages)
            if self._request_log is not None:
                self._request_log.write(record)


def _completed(scope: Scope, route: str, status: int, seconds: float) -> RequestRecord:
    record: RequestRecord = scope["state"]["record"]
    record.request_id, record.method = scope["state"]["request_id"], scope["method"]
    record.route, record.status, record.seconds = route, status, seconds
    record.key_number = scope["state"].get("key_number", NO_KEY)
    return record


def clock_of(request: Request) -> StageClock:
    """The request's, to be told which stage begins."""
    return request.scope["state"]["clock"]


def record_of(request: Request) -> RequestRecord | None:
    """The request's record, to fill in what is known; None where requests are neither logged nor traced."""
    return request.scope["state"].get("record")
