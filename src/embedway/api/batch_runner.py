"""The runner in an API process: a batch's requests take the way of every other, behind all layers but the last."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedway.api.batch_access import key_number
from embedway.api.core_request import core_request
from embedway.api.error_response import error_body
from embedway.api.priority import BATCH_MARK
from embedway.batches.results import Answer
from embedway.batches.runner import Runner
from embedway.batches.validation import ENDPOINT
from embedway.errors import InternalFault, ModelNotFound
from embedway.observability.logs import in_request
from embedway.observability.request_log import RequestRecord
from embedway.observability.stage_clock import StageClock

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Scope

    from embedway.api.context import ApiContext

logger = logging.getLogger("embedway.batches")

NOT_NOW = (429, 503)
"""The server did not begin the request, or lost it by no fault of the request's"""
SHORTEST_WAIT, LONGEST_WAIT = 0.1, 10.0
"""Seconds. Who waits for long does not see room that is free meanwhile"""


@contextlib.asynccontextmanager
async def batches_running(context: ApiContext, core: ASGIApp) -> AsyncGenerator[None]:
    """Batches are worked off in the block, by this process if no other one does, where the server keeps any."""
    batches = context.batches
    if batches is None:
        yield
        return
    runner = Runner(
        batches.storage,
        batches.limits,
        LineSender(context, core),
        model_problem=lambda name: model_problem(context, name),
        may_run=lambda owner: key_number(context.keys, owner) is not None,
        on_result=context.metrics.batch_line_done,
        clock=batches.clock,
        woken=batches.woken,
    )
    running = asyncio.create_task(runner.run())
    try:
        yield
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


def model_problem(context: ApiContext, name: str) -> str | None:
    try:
        context.models.find(name)
    except ModelNotFound as error:
        return error.message
    return None


@dataclass(frozen=True, slots=True)
class LineSender:
    context: ApiContext
    core: ASGIApp

    async def __call__(self, owner: str, body: bytes) -> Answer:
        """Send a request until it is answered for good: for as long as there is too much to do, it waits."""
        while True:
            answer, wait = await self._send(owner, body)
            if answer.status not in NOT_NOW:
                return answer
            await asyncio.sleep(min(max(wait, SHORTEST_WAIT), LONGEST_WAIT))

    async def _send(self, owner: str, body: bytes) -> tuple[Answer, float]:
        """The answer, and its Retry-After."""
        record = RequestRecord()
        scope = self._scope(owner, len(body), record)
        state, sent = scope["state"], False
        in_request(state)
        status, headers, pieces = 500, {}, []

        async def receive() -> Message:
            nonlocal sent
            if sent:
                await asyncio.Event().wait()  # this client never goes away: who asks is cancelled
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status, headers
            if message["type"] == "http.response.start":
                status, headers = message["status"], dict(message["headers"])
            else:
                pieces.append(message.get("body", b""))

        try:
            await self.core(scope, receive, send)
        except Exception:
            logger.exception("request %s of a batch failed", state["request_id"])
            status, pieces = 500, [error_body(InternalFault(request_id=state["request_id"]))]
        answer = Answer(status, state["request_id"], pieces, record.tokens or 0)
        return answer, float(headers.get(b"retry-after", b"0"))

    def _scope(self, owner: str, num_bytes: int, record: RequestRecord) -> Scope:
        state = {"request_id": secrets.token_hex(16), "clock": StageClock(), "record": record, BATCH_MARK: True}
        if number := key_number(self.context.keys, owner):
            state["key_number"] = number
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % num_bytes)]
        return core_request("POST", ENDPOINT, headers=headers, state=state)
