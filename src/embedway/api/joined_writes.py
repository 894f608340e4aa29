"""One write to a connection for all that one turn of the event loop has for it, and an end to clients who do not read.

uvicorn writes a response's head and its body one after the other, and each is a system call that wakes the client: a
third of what the API process did for a short query.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Any

from embedway.api.http_limits import LEAST_BYTES_PER_SECOND, LINGER_SECONDS

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
LONGEST_JOINED = 2**16
"""Bytes. To copy a large answer would take longer than a system call."""


class JoinedWrites:
    """An asyncio transport around another one. Attributes that are not here are the other's."""

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        *,
        timeout: float,
        is_receiving: Callable[[], bool] = lambda: False,
    ) -> None:
        """`timeout`: seconds after which a client must have taken something of what waits for it. `is_receiving` says
        whether the client is about to send more of a request.
        """
        self._transport = transport
        self._loop = loop
        self._timeout = timeout
        self._waiting: list[bytes] = []
        self._num_written = 0
        self._num_taken = 0
        """When the timer was set"""
        self._timer: asyncio.TimerHandle | None = None
        self._is_receiving = is_receiving
        self.is_ending = False
        """Whatever still comes is to be passed over"""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append(data)

    def is_closing(self) -> bool:
        return self.is_ending or self._transport.is_closing()

    def close(self) -> None:
        """Close once all that was written is sent; a client who is still sending gets the time that `end` gives."""
        if self._is_receiving():
            self.end()
            return
        self._flush()
        self._transport.close()
        self.watch_client()

    def end(self) -> None:
        """Close once all that was written is sent and the client, who may still be sending, has had time to read it."""
        if self.is_ending:
            return
        self.is_ending = True
        self._flush()
        with contextlib.suppress(RuntimeError, OSError):  # the connection has ended in this turn
            self._transport.resume_reading()
            if self._transport.can_write_eof():  # not under TLS
                self._transport.write_eof()
        self._stop_timer()
        self._timer = self._loop.call_later(LINGER_SECONDS, self._transport.abort)

    def watch_client(self) -> None:
        """Abort, and free what waits, where the client does not take it."""
        if self._timer is None and not self.is_ending and self._transport.get_write_buffer_size():
            self._set_timer()

    def connection_lost(self) -> None:
        """Also lets go of whom it asks: he has this transport, and neither would be freed."""
        self._stop_timer()
        self.is_ending = True
        self._is_receiving = _no_longer

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self) -> None:
        self._num_taken = self._num_written - self._transport.get_write_buffer_size()
        self._timer = self._loop.call_later(self._timeout, self._check_progress)

    def _check_progress(self) -> None:
        self._timer = None
        left = self._transport.get_write_buffer_size()
        if left and self._num_written - left - self._num_taken < self._timeout * LEAST_BYTES_PER_SECOND:
            # a reset, or the kernel would keep what it has for a client who never takes it
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            self._transport.abort()
        elif left:
            self._set_timer()

    def _flush(self) -> None:
        if not self._waiting:
            return
        num_bytes = sum(map(len, self._waiting))
        pieces = self._waiting if num_bytes > LONGEST_JOINED else [b"".join(self._waiting)]
        self._waiting = []
        self._num_written += num_bytes
        with contextlib.suppress(RuntimeError):  # uvloop's, where the connection has ended in this turn
            for piece in pieces:
                self._transport.write(piece)


def _no_longer() -> bool:
    return False
