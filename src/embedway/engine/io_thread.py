"""The engine's I/O thread: an event loop that owns the Unix socket and the connections of all API processes."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeAlias

from embedway.engine import wire
from embedway.engine.channel import Channel, Message, new_event_loop

Arrived: TypeAlias = "tuple[int, wire.ToEngine]"
"""A client's number, and its message"""
Outgoing: TypeAlias = "Iterable[tuple[int, bytes, bytes | memoryview]]"
"""A client's number, a frame for it, and the array that goes with it"""


class Reception(Protocol):
    """What is to become of messages: called in the I/O thread alone, which sends what it returns."""

    def receive(self, arrived: Sequence[Arrived]) -> Outgoing: ...

    def wake(self) -> Outgoing:
        """Somebody called `IoThread.wake`."""
        ...

    def forget(self, client: int) -> None:
        """A client has gone: nobody waits for its answers."""
        ...


class IoThread:
    """Reads what clients send and sends what others answer, at any moment, whatever the model does."""

    def __init__(self, address: str, on_error: Callable[[], object]) -> None:
        """`address` is the socket's path. `on_error` is called as the thread ends by an error, which `join` raises."""
        self._address = address
        self._on_error = on_error
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._is_bound = threading.Event()
        self._error: Exception | None = None
        self._numbers = itertools.count(1)
        self._clients: dict[int, Channel] = {}
        self._on_left: Callable[[], object] | None = None
        """Called as the last client leaves; None: others may come"""

    def start(self, reception: Reception) -> bool:
        """Return once the socket is bound; False where it cannot be."""
        self._loop = new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(self._loop, reception), name="io", daemon=True)
        self._thread.start()
        self._is_bound.wait()
        return self._error is None

    def send(self, client: int, frame: bytes, array: bytes | memoryview) -> None:
        """Send a message to a client, if it is still there. Callable from any thread."""
        self._call(self._send, client, frame, array)

    def wake(self) -> None:
        """Have `Reception.wake` called. Callable from any thread; after the end, nothing happens."""
        self._call(self._wake)

    def dismiss(self, frame: bytes, on_left: Callable[[], object]) -> None:
        """Send a frame to all clients, and call `on_left` once all have left. Callable from any thread."""
        self._call(self._dismiss, frame, on_left)

    def repeat(self, seconds: float, act: Callable[[], object]) -> None:
        """Call `act` in the thread, now and every so many seconds. Callable from any thread."""
        self._call(self._repeat, seconds, act)

    def join(self) -> None:
        """End the thread once all that was given to `send` is sent. Raises what ended it before."""
        if self._loop is not None:
            self._call(self._loop.stop)
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error

    def _call(self, callback: Callable[..., object], *arguments: Any) -> None:
        assert self._loop is not None, "started"
        with contextlib.suppress(RuntimeError):  # raised where the loop is closed already
            self._loop.call_soon_threadsafe(callback, *arguments)

    # ── the thread ──

    def _run(self, loop: asyncio.AbstractEventLoop, reception: Reception) -> None:
        self._reception = reception
        loop.set_exception_handler(self._on_exception)
        try:
            server = loop.run_until_complete(loop.create_unix_server(self._new_channel, self._address))
            self._is_bound.set()
            loop.run_forever()
            server.close()
            for channel in self._clients.values():
                channel.close()
            loop.run_until_complete(asyncio.sleep(0))  # the connections' ends
        except Exception as error:
            self._fail(error)
        finally:
            self._is_bound.set()
            loop.close()

    def _on_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An engine that can no longer read or answer must end, and be started anew."""
        loop.stop()
        self._fail(context.get("exception") or RuntimeError(context["message"]))

    def _fail(self, error: Exception) -> None:
        self._error = self._error or error
        self._on_error()

    def _new_channel(self) -> Channel:
        client = next(self._numbers)
        channel = Channel(functools.partial(self._receive, client), functools.partial(self._forget, client))
        self._clients[client] = channel
        return channel

    def _receive(self, client: int, messages: list[Message]) -> None:
        self._send_all(self._reception.receive([(client, wire.decode_to_engine(frame)) for frame, _ in messages]))

    def _forget(self, client: int) -> None:
        del self._clients[client]
        self._reception.forget(client)
        self._check_left()

    def _dismiss(self, frame: bytes, on_left: Callable[[], object]) -> None:
        self._on_left = on_left
        for channel in self._clients.values():
            channel.send(frame)
        self._check_left()

    def _check_left(self) -> None:
        if self._on_left is not None and not self._clients:
            self._on_left()

    def _repeat(self, seconds: float, act: Callable[[], object]) -> None:
        act()
        assert self._loop is not None, "started"
        self._loop.call_later(seconds, self._repeat, seconds, act)

    def _wake(self) -> None:
        self._send_all(self._reception.wake())

    def _send_all(self, outgoing: Outgoing) -> None:
        for client, frame, array in outgoing:
            self._send(client, frame, array)

    def _send(self, client: int, frame: bytes, array: bytes | memoryview) -> None:
        if (channel := self._clients.get(client)) is not None:
            channel.send(frame, array)
