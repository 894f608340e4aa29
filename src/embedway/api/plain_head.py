"""Heads of requests to embed that want their answer and no more: what can be done for them without the framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from embedway.api.body_limit import SMALL_BODY
from embedway.api.embedding_call import CALLS

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]
"""Their names in small letters"""

FURTHER_WISHES = frozenset({b"connection", b"expect", b"origin", b"transfer-encoding", b"upgrade"})
TARGETS: Mapping[bytes, str] = {path.encode(): path for path in CALLS}


class PlainHead(NamedTuple):
    path: str
    size: int
    """Bytes of the body"""
    headers: Headers
    values: Mapping[bytes, bytes]
    """By the headers' names; of several, the first"""

    def text(self, name: bytes) -> str | None:
        """A header's value; None where there is none."""
        value = self.values.get(name)
        return None if value is None else value.decode("latin-1")


def plain_head(method: bytes, target: bytes, headers: Headers) -> PlainHead | None:
    """The head of a small request of HTTP/1.1; None where it is none of these, or wishes for something else."""
    path = TARGETS.get(target)
    if path is None or method != b"POST":
        return None
    values = dict(reversed(headers))
    if not FURTHER_WISHES.isdisjoint(values) and any(has_wish(*header) for header in headers):
        return None
    size = int(values.get(b"content-length", b"0"))
    return PlainHead(path, size, headers, values) if size <= SMALL_BODY else None


def has_wish(name: bytes, value: bytes) -> bool:
    """Whether a header says what does not hold without it."""
    return name in FURTHER_WISHES and not (name == b"connection" and value.lower() == b"keep-alive")
