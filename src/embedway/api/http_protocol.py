"""HTTP on one connection: uvicorn's protocol, which holds out against clients that are broken, slow or hostile.

What cannot be a request gets OpenAI's error body, behind the answers to what came before it, and ends the connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass, field
from typing import Any, cast

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from embedway.api import waits
from embedway.api.early_refusal import EarlyRefusal
from embedway.api.error_response import error_body
from embedway.api.http_limits import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_PIPELINED,
    HttpLimits,
    check_head,
)
from embedway.api.joined_writes import JoinedWrites
from embedway.api.plain_head import PlainHead, plain_head
from embedway.api.quick_request import Answer, QuickRequest, QuickRequests
from embedway.api.receive_timer import ReceiveTimer
from embedway.errors import (
    BodyTooLarge,
    EmbedwayError,
    HeadTooLarge,
    MalformedHttp,
    RequestTimedOut,
    TooManyConnections,
)

logger = logging.getLogger("embedway.api")

FRAMING = (b"content-length", b"transfer-encoding")
HOLD_SECONDS = 0.02
"""For which the rest of a body is waited for: most clients send it right behind the head, in another packet"""


@dataclass(slots=True)
class HeldRequest:
    """One that can perhaps be answered without the application, and has not come whole."""

    head: PlainHead
    pieces: list[bytes] = field(default_factory=list)
    """From the head's first byte"""
    num_bytes: int = 0
    timer: asyncio.TimerHandle | None = None
    """Until it is the parser's"""

    def add(self, data: bytes) -> None:
        self.pieces.append(data)
        self.num_bytes += len(data)


class HttpProtocol(HttpToolsProtocol):
    """One a connection."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: HttpLimits,
        early_refusal: EarlyRefusal,
        quick_requests: QuickRequests,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = limits
        self._early_refusal = early_refusal
        self._quick_requests = quick_requests
        self._held: HeldRequest | None = None
        """What is being received, as long as the application may never need to see it: nor does the parser"""
        self._writes: JoinedWrites
        """`transport`, by its own type; set in `connection_made`"""
        self._timer = ReceiveTimer(self.loop, timeout=limits.receive_timeout, on_stall=self._stalled)
        """Runs while a request is awaited or under way, unless it came whole at once"""
        self._is_receiving = True
        self._has_head = False
        """Of what is being received, which then is `cycle`"""
        self._barren_bytes = 0
        """Received since anything came of it"""
        self._is_resuming = False
        self._unanswered: deque[RequestResponseCycle | QuickRequest] = deque()
        """In their order: the first is being answered"""
        self._is_refused = False
        self._last_words = b""
        """To be said once all that came before is answered; none: that was the answer. No error, which knows frames of
        this protocol: neither would be freed"""

    # ── the transport's calls ──

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._writes = JoinedWrites(
            cast("asyncio.Transport", transport),
            self.loop,
            timeout=self._limits.send_timeout,
            is_receiving=lambda: self._is_receiving and self._has_head,
        )
        super().connection_made(cast("asyncio.Transport", self._writes))
        if len(self.connections) > self._limits.max_connections:
            self._refuse(TooManyConnections(limit=self._limits.max_connections))
        else:
            self._timer.start()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.close()
        self._writes.connection_lost()
        self._let_go_of_held()
        for cycle in self._unanswered:  # uvicorn tells the newest only
            disconnect(cycle)
        self._unset_keepalive_if_required()  # uvicorn leaves it where the client reset, and all of this with it
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused or self._writes.is_ending:
            return
        if self._held is not None or self._is_between_requests:
            data = self._take_plain(data)
            if not data:
                return
        self._give_to_parser(data)

    def _give_to_parser(self, data: bytes) -> None:
        self._barren_bytes += len(data)
        try:
            self._parse(data)
            if self._barren_bytes > MAX_HEAD_BYTES:
                raise HeadTooLarge(limit=MAX_HEAD_BYTES, headers=MAX_HEADERS)
        except httptools.HttpParserError as error:
            self._refuse(refusal_of(error))
        except HeadTooLarge as error:
            self._refuse(error)
        else:
            if self._is_receiving and not self._timer.is_running:
                self._timer.start()

    def shutdown(self) -> None:
        self._end_hold()  # whoever has begun to ask is to be answered
        super().shutdown()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writes.watch_client()

    # ── the parser's calls ──

    def on_message_begin(self) -> None:
        if self._is_resuming:
            return
        self._unset_keepalive_if_required()  # not for less than this: an idle client could send empty lines for ever
        super().on_message_begin()
        self._is_receiving, self._has_head, self._timer.body_bytes = True, False, 0

    def on_headers_complete(self) -> None:
        if self._is_resuming:
            return
        assert self.parser is not None
        check_head(self.parser.get_http_version(), self.url, self.headers)
        if len(self.pipeline) >= MAX_PIPELINED:
            raise MalformedHttp(problem=f"more than {MAX_PIPELINED} requests wait for the answers before them")
        self._barren_bytes = 0
        if self._timer.is_running:
            self._timer.start()
        if any(isinstance(earlier, QuickRequest) for earlier in self._unanswered):
            # uvicorn reads no more until they are answered, and none but the application's would see the client's end
            self.loop.call_later(waits.WATCH_AFTER_SECONDS, self._read_on)
        super().on_headers_complete()
        self._unset_keepalive_if_required()  # an answer may have set it meanwhile
        self._has_head = True
        self._unanswered.append(self.cycle)
        self.headers = []  # for trailers: they are not the request's, which has its list

    def on_body(self, body: bytes) -> None:
        self._barren_bytes = 0
        self._timer.body_bytes += len(body)
        super().on_body(body)
        if self.cycle.response_complete and self._timer.body_bytes > self._limits.max_body_bytes:
            raise BodyTooLarge(limit=self._limits.max_body_bytes)

    def on_message_complete(self) -> None:
        assert self.parser is not None
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        self._all_received()

    # ── what needs neither parser nor application ──

    @property
    def _is_between_requests(self) -> bool:
        """All that came before is answered, and the parser has nothing of what comes now."""
        is_under_way = self._unanswered or self._barren_bytes or (self._is_receiving and self._has_head)
        return not is_under_way and not self.flow.write_paused

    def _take_plain(self, data: bytes) -> bytes:
        """What is left of `data`, and of what is held, for the parser. Of a piece of data only the first request may be
        answered at once: to do so with all that a client sends in one would hold the loop.
        """
        held = self._held
        if held is None:
            head = plain_head(data)
            if head is None:
                return data
            held = HeldRequest(head)
        held.add(data)
        if held.num_bytes < held.head.length + held.head.size:
            self._hold(held)
            return b""
        data = self._let_go_of_held() or data
        head = held.head
        end = head.length + head.size
        return data[end:] if self._answer_plain(head, data[head.length : end]) else data

    def _hold(self, held: HeldRequest) -> None:
        if held.timer is None:
            self._unset_keepalive_if_required()
            self._timer.stop()
            held.timer = self.loop.call_later(HOLD_SECONDS, self._end_hold)
            self._held = held

    def _end_hold(self) -> None:
        """What takes longer is the application's, whose time for it begins here."""
        if data := self._let_go_of_held():
            self._give_to_parser(data)

    def _let_go_of_held(self) -> bytes:
        """What was held, which is another's from now on."""
        held, self._held = self._held, None
        if held is None:
            return b""
        if held.timer is not None:
            held.timer.cancel()
        return b"".join(held.pieces)

    def _answer_plain(self, head: PlainHead, body: bytes) -> bool:
        """False where the request has to go the whole way."""
        refusal = self._early_refusal.answer(head)
        if refusal is not None:
            self._all_received()
            self._writes.write(refusal)
            super().on_response_complete()
            return True
        quick = self._quick_requests.take(head, body)
        if quick is None:
            return False
        self._unset_keepalive_if_required()
        self._all_received()
        self._has_head = True
        self.cycle = quick  # ty: ignore[invalid-assignment] - it stands in its place
        self._unanswered.append(quick)
        if quick.pending is not None:  # what a shutdown waits for, and cancels in the end
            self.tasks.add(quick.pending)  # ty: ignore[invalid-argument-type]
            quick.pending.add_done_callback(self.tasks.discard)
        quick.then(self._answer_quickly)
        return True

    def _all_received(self) -> None:
        """Of a request."""
        self._is_receiving = False
        self._barren_bytes = 0
        self._timer.stop()

    def _read_on(self) -> None:
        if not self._writes.is_closing():
            self.flow.resume_reading()

    # ── the answers ──

    def _answer_quickly(self, quick: QuickRequest, answer: Answer) -> None:
        general = [b"%s: %s\r\n" % header for header in self.server_state.default_headers]
        if not quick.keep_alive:
            general.append(b"connection: close\r\n")
        quick.response_started = quick.response_complete = True
        self._writes.write(b"".join((STATUS_LINE[answer.status], *general, answer.lines, b"\r\n", answer.body)))
        if not quick.keep_alive:
            self._writes.close()
        self.on_response_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._unanswered.popleft()
        if self._is_refused and not self._unanswered:
            self._end()

    def _parse(self, data: bytes) -> None:
        assert self.parser is not None
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._pass_over_upgrade()
            self._parse(data[upgrade.args[0] :])

    def _pass_over_upgrade(self) -> None:
        """Read on as if none had been offered (RFC 9110, 7.8): Java's client offers HTTP/2 with every first request.

        The parser has given up behind the head, without the body: another one goes on, from a head of the same framing.
        """
        self._is_resuming = True
        self.parser = httptools.HttpRequestParser(self)
        framing = [b"%s: %s\r\n" % line for line in self.cycle.scope["headers"] if line[0] in FRAMING]
        self.parser.feed_data(b"POST / HTTP/1.1\r\n" + b"".join(framing) + b"\r\n")
        self._is_resuming = False

    def _refuse(self, error: EmbedwayError) -> None:
        """End the connection with an error, whether what is being received has begun to be answered or not."""
        logger.debug("a connection is refused: %s", error.code)
        self._is_refused = True
        self._timer.stop()
        is_answered = self._has_head and self.cycle.response_started
        if self._has_head and not is_answered:
            self._withdraw()
        self._last_words = b"" if is_answered else whole_response(error)
        if not self._unanswered:
            self._end()

    def _withdraw(self) -> None:
        """What is being received will get no answer of the application's."""
        self._unanswered.remove(self.cycle)
        disconnect(self.cycle)
        if self.pipeline and self.pipeline[0][0] is self.cycle:
            self.pipeline.popleft()

    def _end(self) -> None:
        if self._last_words:
            self._writes.write(self._last_words)
        self._writes.end()

    def _stalled(self) -> None:
        if self.flow.read_paused:  # where nothing is read, it is us who are slow
            self._timer.start()
        elif self.scope is None:
            self._writes.close()  # nothing was ever asked
        else:
            self._refuse(RequestTimedOut(limit=self._limits.receive_timeout))


def refusal_of(error: httptools.HttpParserError) -> EmbedwayError:
    """What one of our callbacks raised is its context."""
    cause = error.__context__
    return cause if isinstance(cause, EmbedwayError) else MalformedHttp(problem=str(error))


def disconnect(cycle: RequestResponseCycle | QuickRequest) -> None:
    """Its request gets no answer any more, and is told so."""
    if isinstance(cycle, QuickRequest):
        cycle.disconnect()
        return
    cycle.disconnected = True
    cycle.on_response = _nobody_is_told  # it is uvicorn's to let go of the protocol, but only where it has begun
    cycle.message_event.set()


def _nobody_is_told() -> None:
    pass


def whole_response(error: EmbedwayError) -> bytes:
    """For a connection that ends."""
    body = error_body(error)
    retry = b"" if error.retry_after_seconds is None else b"retry-after: %d\r\n" % error.retry_after_seconds
    headers = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n" % len(body)
    return STATUS_LINE[error.status] + headers + retry + b"\r\n" + body
