"""One engine as an API process knows it: whether it is there, what it was given, and what it says."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Collection
from typing import TypeAlias

from embedway.engine import wire
from embedway.engine.channel import Channel, Frame, Message
from embedway.engine.in_flight import InFlight, Pending
from embedway.engine.running_batch import path_of, read_running

logger = logging.getLogger("embedway.engine.client")

PING_SECONDS = 0.1
SEEK_SECONDS = 0.02
"""Between pings to a replica that is not there, so that a new one is found at once."""
FLUSH_BYTES = 1 << 20
"""Of token ids and pixels sent in one turn of the event loop, or one request: of an engine that was lost there may be
hundreds of times as much to be sent to the next"""
SILENCE_SECONDS = 10.0
"""A replica that has not answered a ping for this long is given up: what it has is sent elsewhere."""

CallEnd: TypeAlias = wire.AdapterLoaded | wire.AdapterRefusal | wire.AdapterUnloaded | wire.CacheFlushed | None
"""The answer to a call; None: the engine was lost before it came."""


class Replica:
    """Belongs to one event loop. Between `start` and `stop` it is pinged, and heard."""

    def __init__(
        self,
        address: str,
        *,
        on_status: Callable[[Replica], object],
        on_orphans: Callable[[list[Pending], Collection[int]], object],
        on_retiring: Callable[[Replica], object],
        on_abort: Callable[[str | None], object] = lambda _: None,
    ) -> None:
        """`address` is the path of the engine's socket.

        `on_status` is called with every sign of life; `on_orphans` gets the requests of an engine that was lost, and
        the ids of those that it was computing; `on_abort` is told that an operator ends the requests of an id, or all,
        through another client of the engine;
        `on_retiring` is called as the engine says that it has a successor.
        """
        self.address = address
        self._channel: Channel | None = None
        """None: nobody is connected."""
        self._on_new_status = on_status
        self._on_orphans = on_orphans
        self._on_abort = on_abort
        self._on_retiring = on_retiring
        self._is_leaving = False
        self._instance: str | None = None
        """The engine process that has `in_flight`"""
        self._num_unheard_pings = 0
        """Since the last status"""
        self._outbox: deque[Pending] = deque()
        """Those of `in_flight` that are to be sent at the end of this turn of the event loop, or of the next ones"""
        self._abandoned: list[int] = []
        """Requests that the engine is to be told of at the end of this turn: a request in parts is hundreds"""
        self._calls: dict[int, asyncio.Future[CallEnd]] = {}
        """By request id"""
        self._pinging: asyncio.Task[None] | None = None
        self._is_stopped = False
        self.in_flight = InFlight()
        self.status: wire.Status | None = None
        """The newest one; None: not ready, or gone."""
        self._tokens_per_second = 0.0
        """Its, computed once: every request asks for it"""

    @property
    def is_ready(self) -> bool:
        return self.status is not None

    @property
    def tokens_per_second(self) -> float:
        """What it does, by its time model; 0 while it is not ready."""
        return self._tokens_per_second if self.is_ready else 0.0

    def start(self) -> None:
        self._pinging = asyncio.create_task(self._ping())

    async def stop(self) -> None:
        if self._pinging is not None:
            self._pinging.cancel()
            await asyncio.gather(self._pinging, return_exceptions=True)
        self.end_calls()
        self._is_stopped = True
        self.status = None
        if self._channel is not None:
            self._channel.close()

    def leave(self) -> None:
        """Give this engine nothing more, and disconnect once it has answered all that it was given."""
        self._flush()
        self._is_leaving = True
        self.status = None
        if self._pinging is not None:
            self._pinging.cancel()
        self._leave_if_done()

    @property
    def has_left(self) -> bool:
        return self._is_leaving and self._channel is None

    def send(self, pending: Pending) -> None:
        """Send a request, with all others of this turn of the event loop in one message."""
        if not self._outbox:
            asyncio.get_running_loop().call_soon(self._send_some)
        self._outbox.append(pending)
        self.in_flight.take(pending)

    async def room(self) -> None:
        """Wait until the engine has taken nearly all that was sent."""
        if self._channel is not None:
            await self._channel.room()

    def cancel(self, request_id: int) -> None:
        """Nobody waits for this request any more: tell the engine, if it is this one that has it."""
        if not self.in_flight.settle(request_id):
            return
        if not self._abandoned:
            asyncio.get_running_loop().call_soon(self._send_cancel)
        self._abandoned.append(request_id)

    def pass_on(self, message: wire.Abort) -> None:
        """To all other clients of the engine."""
        self._send(message)

    def call(self, message: wire.LoadAdapter | wire.UnloadAdapter | wire.FlushCache) -> asyncio.Future[CallEnd]:
        """Send it after all requests before it; the future brings the answer, however long that takes."""
        self._flush()
        future: asyncio.Future[CallEnd] = asyncio.get_running_loop().create_future()
        self._calls[message.request_id] = future
        if not self._send(message):
            self._lose()
        return future

    # ── sending ──

    def _flush(self) -> None:
        while self._outbox:
            self._send_some()

    def _send_some(self) -> None:
        """As many of the outbox as have FLUSH_BYTES; the others in the next turn."""
        taken: list[Pending] = []
        num_bytes = 0
        while self._outbox:
            num_bytes += self._outbox[0].sequences.num_bytes
            if taken and num_bytes > FLUSH_BYTES:
                break
            pending = self._outbox.popleft()
            if not pending.future.done():
                taken.append(pending)
        if self._outbox:
            asyncio.get_running_loop().call_soon(self._send_some)
        if not taken:
            return
        if self._send(wire.Requests([pending.message() for pending in taken])):
            for pending in taken:
                pending.attempts += 1
        else:
            self._lose()

    def _send_cancel(self) -> None:
        if self._abandoned:
            self._send(wire.Cancel(self._abandoned))
            self._abandoned = []
        self._leave_if_done()

    def _send(self, message: wire.ToEngine) -> bool:
        """False where nobody is connected."""
        if self._channel is None:
            return False
        self._channel.send(wire.encode(message))
        return True

    async def _ping(self) -> None:
        while True:
            if self._channel is None:
                await self._connect()
            self._send(wire.Ping())
            if self.is_ready:
                self._give_up_if_silent()
            await asyncio.sleep(PING_SECONDS if self.is_ready else SEEK_SECONDS)

    def _give_up_if_silent(self) -> None:
        """Counts turns in which this process listened: after a pause of its own, the answers are still to be read."""
        self._num_unheard_pings += 1
        if self._num_unheard_pings * PING_SECONDS > SILENCE_SECONDS:
            self._lose()
            if self._channel is not None:
                self._channel.abort()  # what it has of this client is no longer wanted, should it wake

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):  # it is not there yet, or not any more
            _, self._channel = await loop.create_unix_connection(
                lambda: Channel(self._on_messages, self._on_disconnect), self.address
            )

    def _on_disconnect(self) -> None:
        self._channel = None
        if not self._is_stopped:
            self._lose()

    # ── receiving ──

    def _on_messages(self, messages: list[Message]) -> None:
        for message in messages:
            self._read(*message)
        self._leave_if_done()

    def _leave_if_done(self) -> None:
        if self._is_leaving and self._channel is not None and not len(self.in_flight) and not self._calls:
            self._channel.close()

    def _read(self, frame: Frame, array: Frame) -> None:
        try:
            self._on_message(frame, array)
        except Exception:  # one message must not end the answers to all others
            logger.exception("a message of the engine at %s could not be read", self.address)

    def _on_message(self, frame: Frame, array: Frame) -> None:
        match wire.decode_to_client(frame):
            case wire.Answers() as message:
                self.in_flight.answer(message, array)
            case wire.Status() as status:
                self._on_status(status)
            case wire.Abort() as message:
                self._on_abort(message.http_request_id)
            case wire.Retiring():
                self._on_retiring(self)
            case wire.AdapterRefusal() as message if message.request_id not in self._calls:
                self.in_flight.refuse(message)
            case message:
                end_call(self._calls.pop(message.request_id, None), message)

    def _on_status(self, status: wire.Status) -> None:
        if self._is_leaving:
            return
        if self.status is None or self.status.instance != status.instance:
            self._lose()
            logger.info("the engine at %s is ready (process %d)", self.address, status.pid)
        self.status, self._instance, self._num_unheard_pings = status, status.instance, 0
        self._tokens_per_second = status.tokens_per_second
        self._on_new_status(self)

    # ── bookkeeping ──

    def _lose(self) -> None:
        """This engine process is gone, and what it was given with it."""
        running: Collection[int] = ()
        if self._instance is not None:
            running = read_running(path_of(self.address, self._instance))
            self._instance = None
        if self.status is not None:
            logger.warning("the engine at %s is gone; %d requests wait", self.address, len(self.in_flight))
        self.status = None
        self._outbox.clear()
        self._abandoned.clear()
        self.end_calls()
        self._on_orphans(self.in_flight.settle_all(), running)

    def end_calls(self) -> None:
        """Nobody is going to wait for the answers to calls any longer."""
        for future in self._calls.values():
            end_call(future, None)
        self._calls.clear()


def end_call(future: asyncio.Future[CallEnd] | None, answer: CallEnd) -> None:
    if future is not None and not future.done():
        future.set_result(answer)
