"""Requests that have come whole and wait for nothing but the engine, answered without the framework.

The framework, its messages and the layers between cost a query more than all that is done for it. Whoever asks for
anything unusual goes the whole way, through them; what is done, counted and answered is the same on both.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from starlette.requests import ClientDisconnect

from embedway.api.allowed_hosts import hosts_to_allow
from embedway.api.auth import checked_key
from embedway.api.body_reader import is_json, parsed_here
from embedway.api.deadline import HEADER_KEY, deadline_of, soonest
from embedway.api.embedding_call import CALLS
from embedway.api.embedding_job import EmbeddingJob
from embedway.api.error_response import error_response, log_fault
from embedway.api.priority import scheduler_priority
from embedway.api.request_context import request_id_for
from embedway.api_keys import NO_KEY
from embedway.errors import EmbedwayError, InternalFault, InvalidApiKey, ShuttingDown
from embedway.observability.logs import in_request
from embedway.observability.stage_clock import StageClock

if TYPE_CHECKING:
    from embedway.api.admission import Permit
    from embedway.api.context import ApiContext
    from embedway.api.plain_head import PlainHead
    from embedway.api.waits import Wait
    from embedway.engine.client import EmbedResult
    from embedway.packed_sequences import PackedSequences

logger = logging.getLogger("embedway.api")

MOST_VALUES = 4096
"""Of an answer, which is written in one piece, whether its client reads or not"""


class Answer(NamedTuple):
    status: int
    lines: bytes
    """Of headers, each with its end"""
    body: bytes


class QuickRequests:
    """Those of one API process; belongs to its event loop."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        settings = context.settings
        self._hosts = hosts_to_allow(settings.allowed_hosts, settings.host)
        # their lines and spans are written on the whole way
        self._is_open = not context.keeps_records

    def take(self, head: PlainHead, raw: bytes) -> QuickRequest | None:
        """Begin with a request whose body is `raw`. None: it goes the whole way, and nothing was done for it."""
        if not self._is_open or self._context.drain.has_begun:
            return None
        if self._hosts is not None and (head.text(b"host") or "") not in self._hosts:
            return None
        key_number = NO_KEY
        if self._context.keys.users:
            try:
                key_number = checked_key({"headers": head.headers}, self._context.keys)
            except InvalidApiKey:
                return None
        request = QuickRequest(self._context, head, key_number)
        return request if request.begin(raw) else None


class QuickRequest:
    """One of them. Stands, for uvicorn's protocol, where it has a RequestResponseCycle."""

    message_event = asyncio.Event()
    """Nobody waits for any message"""

    def __init__(self, context: ApiContext, head: PlainHead, key_number: int) -> None:
        self.disconnected = self.response_started = self.response_complete = False
        self.keep_alive = True
        self.pending: asyncio.Future[EmbedResult] | None = None
        """The engine's answer, while it is waited for"""
        self._context = context
        self._head = head
        self._key_number = key_number
        self._id = request_id_for(head.text(b"x-request-id"))
        self._clock = StageClock()
        self._began = time.perf_counter()
        self._answer: Answer | None = None
        self._on_answer: Callable[[QuickRequest, Answer], object] | None = None
        self._permit: Permit | None = None
        self._wait: Wait | None = None

    def begin(self, raw: bytes) -> bool:
        """Do all that there is before the engine's answer. False: the request is to go the whole way."""
        self._context.metrics.request_began()
        try:
            job = self._job_of(raw)
            if job is None:
                self._context.metrics.request_ended()
                return False
            self._submit(job)
        except EmbedwayError as error:
            self._fail(error)
        except Exception as error:
            self._break(error)
        return True

    def then(self, on_answer: Callable[[QuickRequest, Answer], object]) -> None:
        """Call it with the answer once that is there, which may be now. A client who has gone gets none."""
        if self._answer is None:
            self._on_answer = on_answer
        else:
            on_answer(self, self._answer)
            self._answer = None  # the connection keeps this request until its next one

    def disconnect(self) -> None:
        """The client has gone."""
        self.disconnected = True
        self._on_answer = None
        if self._wait is not None:
            self._wait.end(ClientDisconnect())

    def _job_of(self, raw: bytes) -> EmbeddingJob | None:
        """None for the whole way. Raises what is wrong with the request."""
        context, head, started_at = self._context, self._head, time.monotonic()
        deadline = deadline_of(head.text(HEADER_KEY), context.settings.request_timeout, started_at)
        if not is_json(head.text(b"content-type") or ""):
            return None
        self._clock.begin("parse")
        form, call_of = CALLS[head.path]
        call = call_of(context.models, parsed_here(raw, form, context.models.rules), started_at)
        if len(call.items) * call.model.spec.dimension > MOST_VALUES:
            return None
        job = EmbeddingJob.of(
            context,
            call,
            priority=scheduler_priority(call.body.priority, context.settings),
            deadline=soonest(deadline, call.body.timeout_ms, started_at),
            key_number=self._key_number,
            clock=self._clock,
        )
        return job if job.waits_for_engine_only else None

    def _submit(self, job: EmbeddingJob) -> None:
        if job.call.request_id is not None:
            self._id = job.call.request_id
        self._permit = job.admit()
        sequences, self.pending = job.submit_at_once(self._permit)
        self._wait = self._context.waits.begin(self.pending, (self._id, *job.call.item_ids), job.deadline)
        self.pending.add_done_callback(functools.partial(self._on_result, self._wait, job, sequences))

    def _on_result(
        self, wait: Wait, job: EmbeddingJob, sequences: PackedSequences, pending: asyncio.Future[EmbedResult]
    ) -> None:
        # not `pending.result()`: what that raises would have this frame, and be kept by what this frame has
        self._context.waits.close(wait)
        error = self._end_of(wait) if pending.cancelled() else pending.exception()
        if error is None:
            try:
                self._write(job, sequences, pending.result())
            except Exception as error:
                self._break(error)
        elif isinstance(error, EmbedwayError):
            self._fail(error)
        elif isinstance(error, ClientDisconnect):
            logger.debug("request %s: the client went away", self._id)
            self._end(0)
        else:
            self._break(error)

    def _end_of(self, wait: Wait) -> Exception:
        """Why the engine's answer was given up."""
        if wait.ended_by is not None:
            return wait.ended_by
        # the drain's time is over: whatever it waited for, its client gets a word
        return ShuttingDown() if self._context.drain.has_begun else InternalFault(request_id=self._id)

    def _write(self, job: EmbeddingJob, sequences: PackedSequences, result: EmbedResult) -> None:
        job.answered(sequences, result)
        self._clock.begin("encode")
        body = b"".join(job.call.write(sequences, result, self._id))
        self._clock.end()
        self._done(200, b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body), body)

    def _fail(self, error: EmbedwayError) -> None:
        log_fault(error, self._id)
        self._refuse(error)

    def _break(self, error: BaseException) -> None:
        """At what nobody expected."""

        def log() -> None:
            in_request({"request_id": self._id})
            logger.error("request %s failed", self._id, exc_info=error)

        contextvars.copy_context().run(log)
        self._refuse(InternalFault(request_id=self._id))

    def _refuse(self, error: EmbedwayError) -> None:
        response = error_response(error)
        lines = b"".join(b"%s: %s\r\n" % header for header in response.raw_headers)
        self._done(response.status_code, lines, bytes(response.body))

    def _done(self, status: int, lines: bytes, body: bytes) -> None:
        """`lines` of headers, without the request's id."""
        answer = Answer(status, b"%sx-request-id: %s\r\n" % (lines, self._id.encode()), body)
        if self._on_answer is not None:
            self._on_answer(self, answer)
        elif not self.disconnected:
            self._answer = answer
        self._end(status)

    def _end(self, status: int) -> None:
        """Count the request, free its place, and let go of what has this request."""
        self._clock.end()
        seconds = time.perf_counter() - self._began
        self._context.metrics.request_done(self._head.path, status, seconds, self._clock.stages)
        self._context.metrics.request_ended()
        if self._permit is not None:
            self._permit.__exit__(None, None, None)
        self.pending = self._wait = self._permit = self._on_answer = None
