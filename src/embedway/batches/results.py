"""What became of a request → a line of the output file or the error file, as OpenAI writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import msgspec

from embedway.batches.index import Entry
from embedway.batches.records import new_id

EndedBy: TypeAlias = Literal["batch_expired", "batch_cancelled"]

MESSAGES: dict[EndedBy, str] = {
    "batch_expired": "The batch's completion window ended before this request was done.",
    "batch_cancelled": "The batch was cancelled before this request was done.",
}
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said to a request."""

    status: int
    request_id: str
    body: Sequence[bytes]
    """JSON, in the pieces in which it was written: to join those of a large one would stop the event loop"""
    tokens: int = 0
    """That were embedded"""


@dataclass(frozen=True, slots=True)
class Result:
    """A request that is over, as it will be written down."""

    pieces: tuple[bytes, ...]
    """Of its line"""
    is_completed: bool
    """It goes into the output file, any other into the error file"""
    index_end: int
    """As `index.Request.index_end`"""
    tokens: int = 0

    @property
    def size(self) -> int:
        return sum(map(len, self.pieces))


def answered(entry: Entry, answer: Answer, index_end: int) -> Result:
    start = _start_of(entry) + b'{"status_code":%d,"request_id":%s,"body":' % (
        answer.status,
        _encode(answer.request_id),
    )
    return Result((start, *answer.body, b'},"error":null}\n'), answer.status == 200, index_end, answer.tokens)


def unanswered(entry: Entry, ended_by: EndedBy, index_end: int) -> Result:
    """Of a request for which there was no time."""
    error = _encode({"code": ended_by, "message": MESSAGES[ended_by]})
    return Result((_start_of(entry), b'null,"error":', error, b"}\n"), False, index_end)


def _start_of(entry: Entry) -> bytes:
    return b'{"id":%s,"custom_id":%s,"response":' % (_encode(new_id("batch_req_")), _encode(entry.custom_id))
