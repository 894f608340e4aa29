"""A ZeroMQ DEALER socket in an event loop, without pyzmq's futures: they cost more than the messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import zmq

NOBLOCK, POLLIN = int(zmq.NOBLOCK), int(zmq.POLLIN)  # to combine Python's flags takes microseconds
MESSAGES_A_TURN = 64
"""Read in one turn of the event loop; then others get theirs."""


class Dealer:
    """Sends without waiting, and hands over each message that comes. Belongs to one event loop.

    ZeroMQ's descriptor tells of news once: whoever looks must take all that there is. To send is to look, too.
    """

    def __init__(self, context: zmq.Context, address: str) -> None:
        self._socket = _connect(context, address)
        self._loop = asyncio.get_running_loop()

    def listen(self, on_message: Callable[[list[bytes]], object]) -> None:
        """Call `on_message` with the frames of each message, until `close`. It must not raise."""
        self._on_message = on_message
        self._loop.add_reader(self._socket.fileno(), self._drain)

    def send(self, frame: bytes) -> bool:
        """False where nobody is connected."""
        try:
            self._socket.send(frame, NOBLOCK)
        except zmq.Again:
            return False
        finally:
            events = self._socket.get(zmq.EVENTS)
            assert isinstance(events, int)
            if events & POLLIN:
                self._loop.call_soon(self._drain)
        return True

    def close(self) -> None:
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close(linger=0)

    def _drain(self) -> None:
        for _ in range(MESSAGES_A_TURN):
            if self._socket.closed:
                return
            try:
                frames = self._socket.recv_multipart(NOBLOCK)
            except zmq.Again:
                return
            self._on_message(frames)
        self._loop.call_soon(self._drain)


def _connect(context: zmq.Context, address: str) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.DEALER)
    socket.set_hwm(0)
    socket.linger = 0
    socket.immediate = True  # refuse to send while the engine is away, rather than queue for it unseen
    socket.reconnect_ivl = 20
    socket.connect(address)
    return socket
