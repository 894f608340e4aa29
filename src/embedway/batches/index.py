"""Where each request of a validated file stands: one line of JSON for each, so that nobody parses the file again."""

from __future__ import annotations

from typing import BinaryIO

import msgspec

LONGEST_ENTRY = 2**14
"""Bytes. Its text is a custom_id, which is short"""


class Entry(msgspec.Struct, array_like=True, frozen=True):
    custom_id: str
    offset: int
    """Of the body's first byte in the input file"""
    length: int
    inputs: int
    """Items that it asks to embed, by the look of it"""


class Request(msgspec.Struct, frozen=True):
    """A request that is to be done."""

    entry: Entry
    body: bytes
    """JSON, as the client wrote it"""
    index_end: int
    """Bytes of the index up to the next one"""


_decoder = msgspec.json.Decoder(Entry)
_encode = msgspec.json.Encoder().encode


def line_of(entry: Entry) -> bytes:
    return _encode(entry) + b"\n"


class IndexReader:
    """Reads the requests of a batch in their order. Its methods block."""

    def __init__(self, index: BinaryIO, requests: BinaryIO, start: int) -> None:
        """`start` is the index's byte to begin with: an entry's first, or the index's end."""
        self._index = index
        self._requests = requests
        self._next: Entry | None = None
        index.seek(start)
        self._end = start

    def peek(self) -> Entry | None:
        """The next request's, None at the end."""
        if self._next is None:
            line = self._index.readline(LONGEST_ENTRY)
            self._next = _decoder.decode(line) if line else None
            self._end += len(line)
        return self._next

    def skip(self) -> tuple[Entry, int]:
        """The next request's entry, and where the index goes on, without its body."""
        entry = self.peek()
        assert entry is not None, "not behind the end"
        self._next = None
        return entry, self._end

    def read(self) -> Request:
        """The next request. Raises OSError where the file is shorter than it was."""
        entry, end = self.skip()
        self._requests.seek(entry.offset)
        body = self._requests.read(entry.length)
        if len(body) < entry.length:
            raise OSError("the input file is shorter than it was")
        return Request(entry, body, end)

    def close(self) -> None:
        self._index.close()
        self._requests.close()
