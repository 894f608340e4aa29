"""Heads of requests to embed that want their answer and no more: what can be done for them without the framework.

They are read here by a stricter grammar than the parser's (RFC 9112): whatever it lets pass, the parser would read
alike (`tests/api/test_plain_head.py`), and all else is the parser's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from embedway.api.body_limit import SMALL_BODY
from embedway.api.embedding_call import CALLS
from embedway.api.http_limits import MAX_HEADERS, MAX_LENGTH_DIGITS

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]
"""Their names in small letters"""

LONGEST_HEAD = 8192
"""Bytes; clients send some hundred"""
HEAD = re.compile(
    rb"POST (%s) HTTP/1\.1\r\n((?:[!#$%%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n)+)\r\n"
    % b"|".join(re.escape(path.encode()) for path in CALLS)
)
HEADER = re.compile(rb"([^:]+):[\t ]*([^\r]*)\r\n")
"""Of a head that HEAD matches"""
FURTHER_WISHES = frozenset({b"connection", b"expect", b"origin", b"transfer-encoding", b"upgrade"})


class PlainHead(NamedTuple):
    path: str
    length: int
    """Bytes of the head"""
    size: int
    """Bytes of the body"""
    headers: Headers
    values: Mapping[bytes, bytes]
    """By the headers' names; of several, the first"""

    def text(self, name: bytes) -> str | None:
        """A header's value; None where there is none."""
        value = self.values.get(name)
        return None if value is None else value.decode("latin-1")


def plain_head(data: bytes) -> PlainHead | None:
    """The head that `data` begins with; None where that is not all of a small request's, or wishes for more."""
    found = HEAD.match(data, 0, LONGEST_HEAD)
    if found is None:
        return None
    path, lines = found.groups()
    if b" \r\n" in lines or b"\t\r\n" in lines:  # a value that ends so, or there is none
        return None
    headers = [(name.lower(), value) for name, value in HEADER.findall(lines)]
    values = dict(headers)
    if len(values) < len(headers):  # some name stands there twice
        values = dict(reversed(headers))
        names = [name for name, _ in headers]
        if names.count(b"host") > 1 or names.count(b"content-length") > 1:
            return None
    if not FURTHER_WISHES.isdisjoint(values) and any(has_wish(*header) for header in headers):
        return None
    length = values.get(b"content-length", b"")
    if b"host" not in values or len(headers) > MAX_HEADERS:
        return None
    if not length.isdigit() or len(length) > MAX_LENGTH_DIGITS or int(length) > SMALL_BODY:
        return None
    return PlainHead(path.decode(), found.end(), int(length), headers, values)


def has_wish(name: bytes, value: bytes) -> bool:
    """Whether a header says what does not hold without it."""
    return name in FURTHER_WISHES and not (name == b"connection" and value.lower() == b"keep-alive")
