"""Refusals at the door: what no request can be admitted for is not parsed, nor are its layers gone through.

Far more than a server can do costs it twice: to refuse a query by the whole way takes a fifth of what its vector takes,
on the cores that the model has. So while every model would refuse even the smallest request, small ones are refused as
soon as they are there, by their heads. `Admission` decides, here as there. Whether the client may come in is not looked
at before: the answer says no more than that the server is busy.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from embedway.api.body_limit import SMALL_BODY
from embedway.api.deadline import HEADER_KEY, head_timeout_ms
from embedway.api.embeddings import ROUTES
from embedway.api.error_response import error_body
from embedway.api.request_context import is_safe_request_id
from embedway.errors import InvalidValue, ServerOverloaded

if TYPE_CHECKING:
    from embedway.api.context import ApiContext

Head = Sequence[tuple[bytes, bytes]]
"""Headers, their names in small letters"""

WHOLE_WAY = frozenset({b"connection", b"expect", b"origin", b"transfer-encoding", b"upgrade"})
"""Whose request these are in wants more of an answer than there is here"""

TARGETS = frozenset(route.path.encode() for route in ROUTES)


class EarlyRefusal:
    """Of one API process; belongs to its event loop."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        # their lines and spans are written on the whole way
        self._is_open = context.request_log is None and context.tracer is None

    def answer(self, method: bytes, target: bytes, head: Head) -> bytes | None:
        """The 429 for a request with such a head, to be sent once its body is read; None: it is to be looked at.

        It is for HTTP/1.1, and a connection that goes on.
        """
        if not self._is_open or target not in TARGETS or method != b"POST" or self._context.drain.has_begun:
            return None
        wants_more = any(name in WHOLE_WAY and not is_default(name, value) for name, value in head)
        if wants_more or int(first(head, b"content-length") or 0) > SMALL_BODY:
            return None
        try:
            refusal = self._refusal(self._timeout(head))
        except InvalidValue:
            return None
        return None if refusal is None else self._written(target, head, refusal)

    def _timeout(self, head: Head) -> float | None:
        """The most seconds that the client waits; None: nothing is said of that. Raises InvalidValue."""
        given, limit = first(head, HEADER_KEY), self._context.settings.request_timeout
        if given is None:
            return limit
        seconds = head_timeout_ms(given.decode("latin-1")) / 1000
        return seconds if limit is None else min(seconds, limit)

    def _refusal(self, timeout: float | None) -> ServerOverloaded | None:
        """None where a model is there that would not refuse everything."""
        books, causes = [], []
        for model in self._context.models:
            cause = None if model.failure is not None else model.admission.cause_for_all(timeout)
            if cause is None:
                return None
            books.append(model.admission)
            causes.append(cause)
        books[0].on_refusal("interactive", causes[0])
        return books[0].refusal(causes[0], "interactive")

    def _written(self, target: bytes, head: Head, error: ServerOverloaded) -> bytes:
        given = (first(head, b"x-request-id") or b"").decode("latin-1")
        request_id = given if is_safe_request_id(given) else secrets.token_hex(16)
        body = error_body(error)
        lines = (
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
            f"retry-after: {error.retry_after_seconds}\r\nx-request-id: {request_id}\r\n\r\n"
        )
        self._context.metrics.request_done(target.decode(), error.status, 0.0, ())
        return b"".join((STATUS_LINE[error.status], lines.encode(), body))


def first(head: Head, name: bytes) -> bytes | None:
    return next((value for key, value in head if key == name), None)


def is_default(name: bytes, value: bytes) -> bool:
    """Whether a header says what holds without it, too."""
    return name == b"connection" and value.lower() == b"keep-alive"
