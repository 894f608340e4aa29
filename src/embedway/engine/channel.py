"""One end of the connection between an API process and an engine: whole messages over a Unix socket.

A message is two frames, a msgspec struct and an array's bytes, behind their lengths (two little-endian uint64). On
uvloop it costs a tenth of ZeroMQ's way through threads of its own (benchmarks/RESULTS.md).
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, cast

import numpy as np

LARGE_BYTES = 1 << 16
"""A longer message is not copied into one piece, and at the other end each byte once"""
LENGTHS = struct.Struct("<QQ")

Frame: TypeAlias = "bytes | memoryview"
Message: TypeAlias = "tuple[Frame, Frame]"
"""The struct's frame, and the array's, which may be empty"""


@dataclass(slots=True, eq=False)
class LargeMessage:
    """One that comes in many pieces: each is put where it belongs, for a copy of all at the end would take too long."""

    frame_length: int
    buffer: memoryview
    num_bytes: int = 0
    """That have come"""

    @classmethod
    def begun(cls, data: bytes) -> LargeMessage:
        """`data` has the lengths at least, and not all of the message."""
        frame_length, array_length = LENGTHS.unpack_from(data)
        message = cls(frame_length, np.empty(frame_length + array_length, np.uint8).data)
        message.take(memoryview(data)[LENGTHS.size :])
        return message

    def take(self, data: memoryview) -> memoryview:
        """Returns what does not belong to it."""
        own = data[: len(self.buffer) - self.num_bytes]
        self.buffer[self.num_bytes : self.num_bytes + len(own)] = own
        self.num_bytes += len(own)
        return data[len(own) :]

    def whole(self) -> Message | None:
        if self.num_bytes < len(self.buffer):
            return None
        buffer = self.buffer.toreadonly()
        return buffer[: self.frame_length], buffer[self.frame_length :]


class Channel(asyncio.Protocol):
    """Belongs to one event loop. What is sent after the other end has gone is lost."""

    def __init__(self, on_messages: Callable[[list[Message]], object], on_lost: Callable[[], object]) -> None:
        """`on_messages` gets all messages that came at once, in their order; `on_lost` is called once, at the end."""
        self._on_messages = on_messages
        self._on_lost = on_lost
        self._begun = b""
        """Of the message that has not come whole, if it is not `_large`"""
        self._large: LargeMessage | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._has_room = asyncio.Event()
        self._has_room.set()

    def send(self, frame: bytes, array: bytes | memoryview = b"") -> None:
        assert self._transport is not None
        head = LENGTHS.pack(len(frame), len(array))
        if len(frame) + len(array) < LARGE_BYTES:
            self._transport.write(b"".join((head, frame, array)))
        else:
            self._transport.writelines((head, frame, array))

    async def room(self) -> None:
        """Wait until nearly all that was sent has left this process, or the other end has gone."""
        await self._has_room.wait()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """At once: what was sent and not taken yet is lost."""
        if self._transport is not None:
            self._transport.abort()

    # ── the transport's calls ──

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        messages: list[Message] = []
        if self._large is not None:
            data = bytes(self._large.take(memoryview(data)))
            if (message := self._large.whole()) is None:
                return
            messages.append(message)
            self._large = None
        data = self._begun + data if self._begun else data
        found, end, needed = split(data)
        messages += found
        self._begun = data[end:]
        if needed > LARGE_BYTES:
            self._large, self._begun = LargeMessage.begun(self._begun), b""
        if messages:
            self._on_messages(messages)

    def pause_writing(self) -> None:
        self._has_room.clear()

    def resume_writing(self) -> None:
        self._has_room.set()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc  # whatever ended it
        self._has_room.set()
        self._on_lost()


def split(data: bytes) -> tuple[list[Message], int, int]:
    """The whole messages at the start of `data`, where they end, and how long what follows must be to be one."""
    messages: list[Message] = []
    end = 0
    while len(data) - end >= LENGTHS.size:
        frame_length, array_length = LENGTHS.unpack_from(data, end)
        frame = end + LENGTHS.size
        array = frame + frame_length
        stop = array + array_length
        if stop > len(data):
            return messages, end, stop - end
        messages.append((data[frame:array], data[array:stop]))
        end = stop
    return messages, end, LENGTHS.size


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where there is one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
