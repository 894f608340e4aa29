"""Who may come in: requests are admitted whole, or refused before anything is tokenized, fetched or decoded for them.

Two classes share the room. Bulk (many tokens, or a priority below 0) may take at most BULK_SHARE of it, so that there
is always room for interactive requests. A class of which nothing is there takes any one request, unless interactive
requests alone leave no room for anything: on an idle server each legal one is admitted.

Where API keys share the engines, a key may hold as much of a class's room as is left free (Choudhury and Hahne,
"Dynamic Queue Length Thresholds", 1998): one that is alone half of it, and of n each a part in n + 1, so that there is
always room for one more. A class of which a key has nothing takes any one request of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Literal, TypeAlias

from embedway.api_keys import NO_KEY
from embedway.errors import ServerOverloaded

if TYPE_CHECKING:
    from embedway.config import Settings

RequestClass: TypeAlias = Literal["interactive", "bulk"]
RefusalCause: TypeAlias = Literal["tokens", "requests", "deadline"]

INTERACTIVE_TOKENS = 1024
"""A request of more is bulk: a query is some ten tokens, a document some hundred."""
USUAL_TOKENS = 64
"""Of an interactive request, at most"""
MAX_USUAL_SHARE = 1 / 64
"""Of the room for tokens: where that is small, a usual request is, too."""
BULK_SHARE = 0.75
DEFAULT_SECONDS = 60.0
"""Of work, where --max-queued-tokens is not given: as long as most clients wait for an answer"""
DEADLINE_SHARE = 0.75
"""A request is admitted if it is likely to be ready in this part of its time: one that misses its deadline at the last
moment has cost the others as much as one that was answered."""
RETRY_AFTER_SECONDS = (1, 60)


@dataclass(slots=True)
class Held:
    """What requests of one class hold now. Written by `Admission` and its permits."""

    requests: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one API process: an equal part of the server's, and whether keys have parts of that."""

    share: float
    """1 / number of API processes"""
    tokens: float | None
    """None: what the engines do in DEFAULT_SECONDS"""
    requests: float
    by_key: bool = False

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        share = 1 / settings.api_workers
        tokens, requests = settings.max_queued_tokens, settings.max_queued_requests
        by_key = settings.fair_share == "keys"
        return cls(share, tokens and tokens * share, math.ceil(requests * share) if requests else math.inf, by_key)


@dataclass(slots=True, eq=False)
class Permit:
    """An admitted request's place, as a context manager: at its end, the place is free."""

    held: Held
    """What the request's class holds"""
    own: Held
    """What its key holds of that; `held` itself where keys have no parts"""
    tokens: int

    def __post_init__(self) -> None:
        self._count(1, self.tokens)

    def settle(self, tokens: int) -> None:
        """The real number, now that it is known. An admitted request stays admitted."""
        self._count(0, tokens - self.tokens)
        self.tokens = tokens

    def __enter__(self) -> Permit:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._count(-1, -self.tokens)

    def _count(self, requests: int, tokens: int) -> None:
        self.held.requests += requests
        self.held.tokens += tokens
        if self.own is not self.held:
            self.own.requests += requests
            self.own.tokens += tokens


@dataclass(slots=True, eq=False)
class Admission:
    """The books of one API process. Belongs to its event loop."""

    limits: Limits
    engine_tokens_per_second: Callable[[], float]
    """What all engines do together; infinite where that is not known yet"""
    on_refusal: Callable[[RequestClass, RefusalCause], object]
    interactive: Held = field(default_factory=Held)
    bulk: Held = field(default_factory=Held)
    _own: dict[tuple[RequestClass, int], Held] = field(default_factory=dict)
    """What each key holds of a class: of every key that ever had a request, where keys have parts"""

    @property
    def tokens_per_second(self) -> float:
        """This process's part of what the engines do."""
        return self.engine_tokens_per_second() * self.limits.share

    @property
    def max_tokens(self) -> float:
        """Infinite where nothing limits them."""
        limit = self.limits.tokens
        return self.tokens_per_second * DEFAULT_SECONDS if limit is None else limit

    def admit(
        self, tokens: int, *, priority: int = 0, timeout: float | None = None, key_number: int = NO_KEY
    ) -> Permit:
        """A place for a request of so many tokens, by estimate. Raises ServerOverloaded.

        `priority` is the scheduler's, larger first; `timeout` is how many seconds the client waits: a request that
        would likely miss its deadline is refused.
        """
        name: RequestClass = "bulk" if tokens > INTERACTIVE_TOKENS or priority < 0 else "interactive"
        held = self.bulk if name == "bulk" else self.interactive
        own = self._own.setdefault((name, key_number), Held()) if self.limits.by_key else held
        if name == "bulk":
            cause = self._cause(name, held, own, tokens, timeout, key_number) or self.cause_for_all(timeout)
        else:  # the same, of both at once
            least = 0 if self.limits.by_key else self._usual_tokens
            cause = self._cause(name, held, own, max(tokens, least), timeout, key_number)
        if cause is not None:
            self.on_refusal(name, cause)
            raise refusal(cause, self.retry_after_seconds(name, key_number))
        return Permit(held, own, tokens)

    def cause_for_all(self, timeout: float | None, *, ahead: int = 0) -> RefusalCause | None:
        """Why every request whose client waits for `timeout` seconds, or less, would be refused; None: not every one.

        `ahead`: tokens of interactive requests that are about to be admitted.

        So it is where interactive requests alone leave less room than a usual one takes: the rest is too small for
        nearly all, who would each go the whole way to learn that. Where keys have parts, one that has nothing here is
        always let in.
        """
        if self.limits.by_key:
            return None
        tokens = ahead + self._usual_tokens
        return self._cause("interactive", self.interactive, self.interactive, tokens, timeout, NO_KEY)

    @property
    def _usual_tokens(self) -> int:
        return max(1, int(min(USUAL_TOKENS, self.max_tokens * MAX_USUAL_SHARE)))

    def _cause(
        self, name: RequestClass, held: Held, own: Held, tokens: int, timeout: float | None, key_number: int
    ) -> RefusalCause | None:
        """Why a request of this class is to be refused; None: it is not."""
        if not own.requests:
            return None
        cause = self._lack(held, own, tokens)
        if cause is None and timeout is not None:
            is_late = self.wait_seconds(name, tokens, key_number) > timeout * DEADLINE_SHARE
            cause = "deadline" if is_late else None
        return cause

    def _lack(self, held: Held, own: Held, tokens: int) -> RefusalCause | None:
        """Of what there is no room."""
        requests_room = self._room(held, self.limits.requests, self.interactive.requests, self.bulk.requests)
        if own.requests + 1 > self._part(requests_room, held.requests, own.requests):
            return "requests"
        tokens_room = self._room(held, self.max_tokens, self.interactive.tokens, self.bulk.tokens)
        if own.tokens + tokens > self._part(tokens_room, held.tokens, own.tokens):
            return "tokens"
        return None

    def _part(self, room: float, held: int, own: int) -> float:
        """How much of a class's `room` one key may hold that has `own` of the `held`."""
        return (room - (held - own)) / 2 if self.limits.by_key else room

    def _room(self, held: Held, limit: float, interactive: int, bulk: int) -> float:
        """How much of `limit` the class of `held` may hold, beside what the other one holds."""
        bulk_share = max(1, limit * BULK_SHARE)
        return min(bulk_share, limit - interactive) if held is self.bulk else limit - min(bulk, bulk_share)

    def wait_seconds(self, name: RequestClass, tokens: int = 0, key_number: int = 0) -> float:
        """How long a new request of this class, with so many tokens, is likely to take.

        The queue lets interactive requests pass bulk; a key waits for its own requests, and as much of each other's.
        """
        ahead = self.interactive.tokens + (self.bulk.tokens if name == "bulk" else 0)
        work = ahead + tokens
        if self.limits.by_key:
            classes: tuple[RequestClass, ...] = ("interactive", "bulk") if name == "bulk" else ("interactive",)
            own = sum(self._own[one, key_number].tokens for one in classes if (one, key_number) in self._own)
            present = {number for (_, number), held in self._own.items() if held.requests} | {key_number}
            work = min(work, (own + tokens) * len(present))
        return work / self.tokens_per_second

    def retry_after_seconds(self, name: RequestClass, key_number: int = NO_KEY) -> int:
        """After which one that is refused now may come again, whole ones."""
        least, most = RETRY_AFTER_SECONDS
        return min(most, max(least, math.ceil(self.wait_seconds(name, 0, key_number))))


PROBLEMS: dict[RefusalCause, str] = {
    "tokens": "the requests before it have all the tokens that may wait (--max-queued-tokens)",
    "requests": "there are as many requests as may wait (--max-queued-requests)",
    "deadline": "those before it will take longer than its deadline allows",
}


def refusal(cause: RefusalCause, retry_after_seconds: int) -> ServerOverloaded:
    return ServerOverloaded(problem=PROBLEMS[cause], seconds=retry_after_seconds)
