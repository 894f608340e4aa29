"""By when a request must be answered: the soonest of what its header, the server and its body say."""

from __future__ import annotations

import time
from collections.abc import Coroutine, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio

from embedway.api.context import context_of
from embedway.api.headers import header
from embedway.api.priority import is_of_batch
from embedway.api.schemas import MAX_TIMEOUT_MS
from embedway.errors import DeadlineExceeded, InvalidValue

if TYPE_CHECKING:
    from starlette.requests import Request

ResultT = TypeVar("ResultT")

HEADER = "X-Request-Timeout-Ms"
HEADER_KEY = HEADER.lower().encode()


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment of this machine's monotonic clock."""

    timeout_ms: float
    expires_at: float
    """Seconds, as `time.monotonic` counts"""

    def remaining_seconds(self) -> float:
        return max(0.0, self.expires_at - time.monotonic())

    def error(self) -> DeadlineExceeded:
        return DeadlineExceeded(milliseconds=round(self.timeout_ms))

    def check(self) -> None:
        """Raise DeadlineExceeded where it has come."""
        if not self.remaining_seconds():
            raise self.error()


def head_deadline(request: Request, started_at: float) -> Deadline | None:
    """What is known of it before the body is there; None where nobody asks for one, as in nearly all requests.

    `started_at` is when the request's head came, by `time.monotonic`. Raises InvalidValue.
    """
    request_timeout = None if is_of_batch(request) else context_of(request).settings.request_timeout
    return deadline_of(header(request.scope, HEADER_KEY), request_timeout, started_at)


def deadline_of(given: str | None, request_timeout: float | None, started_at: float) -> Deadline | None:
    """The same, of the header's value and the server's own timeout in seconds."""
    deadline = None if request_timeout is None else _after(request_timeout * 1000, started_at)
    return soonest(deadline, None if given is None else head_timeout_ms(given), started_at)


def soonest(deadline: Deadline | None, timeout_ms: int | None, started_at: float) -> Deadline | None:
    """The deadline, or so many milliseconds after `started_at`, where that is sooner."""
    if timeout_ms is None or (deadline is not None and deadline.timeout_ms <= timeout_ms):
        return deadline
    return _after(timeout_ms, started_at)


def _after(timeout_ms: float, started_at: float) -> Deadline:
    return Deadline(timeout_ms, started_at + timeout_ms / 1000)


async def within(deadline: Deadline | None, work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """The result of `work`, which is cancelled at the deadline. Raises DeadlineExceeded."""
    if deadline is None:
        return await work
    try:
        first = work.send(None)
    except StopIteration as end:  # it had to wait for nothing, as nearly always: timers would cost a query a tenth
        return end.value
    try:
        # asyncio.wait_for, before Python 3.12, leaves a cycle of references with every error of the work
        with anyio.fail_after(deadline.remaining_seconds()):
            return await _Begun(work, first)
    except TimeoutError:
        raise deadline.error() from None


@dataclass(frozen=True, slots=True)
class _Begun(Generic[ResultT]):
    """What is left of a coroutine that waits for `awaited`, to be awaited itself."""

    work: Coroutine[Any, Any, ResultT]
    awaited: Any

    def __await__(self) -> Generator[Any, Any, ResultT]:
        try:
            yield self.awaited
        except BaseException as error:
            try:
                awaited = self.work.throw(error)
            except StopIteration as end:
                return end.value
            return (yield from _Begun(self.work, awaited).__await__())
        return (yield from self.work.__await__())


def head_timeout_ms(given: str) -> int:
    """The header's value in milliseconds. Raises InvalidValue."""
    if given.isascii() and given.isdigit() and len(given) <= len(str(MAX_TIMEOUT_MS)) and int(given) > 0:
        return int(given)
    raise InvalidValue(param=HEADER, problem=f"must be a whole number of milliseconds, from 1 to {MAX_TIMEOUT_MS}")
