"""Refusals at the door: what no request can be admitted for is not parsed, nor are its layers gone through.

Far more than a server can do costs it twice: to refuse a query by the whole way takes a fifth of what its vector takes,
on the cores that the model has. So while every model would refuse even the smallest request, small ones are refused as
soon as they are there, by their heads. `Admission` decides, here as there. Whether the client may come in is not looked
at before: the answer says no more than that the server is busy.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, NamedTuple

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from embedway.api.admission import RefusalCause, refusal
from embedway.api.deadline import HEADER_KEY, head_timeout_ms
from embedway.api.error_response import error_body
from embedway.api.request_context import request_id_for
from embedway.errors import InvalidValue, ServerOverloaded

if TYPE_CHECKING:
    from embedway.api.context import ApiContext
    from embedway.api.plain_head import PlainHead

BYTES_PER_TOKEN = 8
"""Of a query's body, with the names of its fields"""


class EarlyRefusal:
    """Of one API process; belongs to its event loop."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        # their lines and spans are written on the whole way
        self._is_open = not context.keeps_records
        self._let_in = 0
        """Tokens of those let in this turn of the loop: each is admitted, or not, once all of them are here"""

    def answer(self, head: PlainHead) -> bytes | None:
        """The 429 for a request with such a head, to be sent once its body is read; None: it is to be looked at.

        It is for HTTP/1.1, and a connection that goes on.
        """
        if not self._is_open or self._context.drain.has_begun:
            return None
        try:
            answer = self._refusal(self._timeout(head))
        except InvalidValue:
            return None
        if answer is None:
            self._let_one_in(head.size // BYTES_PER_TOKEN)
            return None
        self._context.metrics.request_done(head.path, ServerOverloaded.status, 0.0, ())
        return answer.with_id(request_id_for(head.text(b"x-request-id")))

    def _let_one_in(self, tokens: int) -> None:
        if not self._let_in:
            asyncio.get_running_loop().call_soon(self._end_turn)
        self._let_in += tokens

    def _end_turn(self) -> None:
        self._let_in = 0

    def _timeout(self, head: PlainHead) -> float | None:
        """The most seconds that the client waits; None: nothing is said of that. Raises InvalidValue."""
        given, limit = head.text(HEADER_KEY), self._context.settings.request_timeout
        if given is None:
            return limit
        seconds = head_timeout_ms(given) / 1000
        return seconds if limit is None else min(seconds, limit)

    def _refusal(self, timeout: float | None) -> WrittenRefusal | None:
        """None where a model is there that would not refuse everything."""
        books, causes = [], []
        for model in self._context.models:
            cause = None if model.failure is not None else model.admission.cause_for_all(timeout, ahead=self._let_in)
            if cause is None:
                return None
            books.append(model.admission)
            causes.append(cause)
        books[0].on_refusal("interactive", causes[0])
        return written(causes[0], books[0].retry_after_seconds("interactive"))


class WrittenRefusal(NamedTuple):
    """An answer but for its request's id, which stands between the two."""

    before_id: bytes
    after_id: bytes

    def with_id(self, request_id: str) -> bytes:
        return b"".join((self.before_id, request_id.encode(), self.after_id))


@functools.lru_cache(maxsize=256)
def written(cause: RefusalCause, retry_after_seconds: int) -> WrittenRefusal:
    error = refusal(cause, retry_after_seconds)
    body = error_body(error)
    lines = (
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        f"retry-after: {retry_after_seconds}\r\nx-request-id: "
    )
    return WrittenRefusal(STATUS_LINE[error.status] + lines.encode(), b"\r\n\r\n" + body)
