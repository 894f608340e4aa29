"""The API's side of the engine: one awaitable a request, over one socket a replica.

A request goes to the ready replica with the fewest tokens in flight. When an engine dies its unanswered requests are
sent once more, to another replica or to its successor; a request that has lost two engines ends in `EngineLost`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import zmq

from embedway.engine import wire
from embedway.engine.dealer import Dealer
from embedway.errors import (
    EngineLost,
    EngineNotReady,
    ItemFailed,
    NonFiniteVector,
    ServerFault,
    ShuttingDown,
)
from embedway.packed_sequences import PackedSequences

logger = logging.getLogger("embedway.engine.client")

PING_SECONDS = 0.1
SEEK_SECONDS = 0.02
"""Between pings to a replica that is not there, so that a new one is found at once."""
SILENCE_SECONDS = 10.0
"""A replica that has not answered a ping for this long is given up: what it has is sent elsewhere."""
MAX_ATTEMPTS = 2
RESCUE_SECONDS = 60.0
"""A request whose engine died waits this long for another one."""

FAULTS: dict[str, type[ServerFault]] = {fault.code: fault for fault in (ItemFailed, NonFiniteVector)}


@dataclass(frozen=True, slots=True)
class EmbedResult:
    """A request's vectors and where its time went."""

    vectors: npt.NDArray[np.float32]
    """float32 [n, dimension], in the request's order, not normalised; read-only"""
    queue_seconds: float
    compute_seconds: float


@dataclass(slots=True, eq=False)
class Pending:
    """A request that waits for its answer."""

    sequences: PackedSequences
    priority: int
    param: Callable[[int], str]
    future: asyncio.Future[EmbedResult]
    attempts: int = 0
    request_id: int = 0
    """Of the newest attempt: an answer to an earlier one finds nobody."""

    def message(self) -> wire.Embed:
        token_ids, cu_seqlens = self.sequences.token_ids.tobytes(), self.sequences.cu_seqlens.tobytes()
        return wire.Embed(self.request_id, self.priority, self.sequences.pool_start, token_ids, cu_seqlens)


@dataclass(slots=True, eq=False)
class Replica:
    """One engine as this process knows it."""

    address: str
    dealer: Dealer
    status: wire.Status | None = None
    """The newest one; None: not ready, or gone."""
    heard_at: float = 0.0
    pending: dict[int, Pending] = field(default_factory=dict)
    outbox: list[Pending] = field(default_factory=list)
    """Those of `pending` that are to be sent at the end of this turn of the event loop"""
    tokens_in_flight: int = 0

    @property
    def is_ready(self) -> bool:
        return self.status is not None

    @property
    def is_silent(self) -> bool:
        """It was ready, and has not been heard of for long."""
        return self.is_ready and time.monotonic() - self.heard_at > SILENCE_SECONDS

    def take(self, pending: Pending) -> None:
        """Keep a request until it is settled."""
        self.pending[pending.request_id] = pending
        self.outbox.append(pending)
        self.tokens_in_flight += pending.sequences.num_tokens

    def settle(self, request_id: int) -> Pending | None:
        """Let go of a request; None where it is not (or no longer) here."""
        pending = self.pending.pop(request_id, None)
        if pending is not None:
            self.tokens_in_flight -= pending.sequences.num_tokens
        return pending

    def answer(self, message: wire.Answers, frame: bytes) -> None:
        vectors, first = np.frombuffer(frame, dtype="<f4").reshape(-1, message.dimension), 0
        for done in message.embedded:
            if pending := self.settle(done.request_id):
                own = vectors[first : first + done.num_sequences]
                _resolve(pending.future, EmbedResult(own, done.queue_seconds, done.compute_seconds))
            first += done.num_sequences
        for failed in message.failed:
            if pending := self.settle(failed.request_id):
                fault = FAULTS.get(failed.code, ItemFailed)
                _reject(pending.future, fault(param=pending.param(failed.item)))


class EngineClient:
    """Made in an event loop: `async with EngineClient(addresses) as engine: await engine.embed(...)`."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._context = zmq.Context()
        self._replicas = [Replica(address, Dealer(self._context, address)) for address in addresses]
        self._homeless: list[Pending] = []
        """Lost their engine, and wait for any to be ready."""
        self._request_ids = itertools.count(1)
        self._tasks: list[asyncio.Task[None]] = []
        self._heard = asyncio.Event()

    async def __aenter__(self) -> EngineClient:
        for replica in self._replicas:
            replica.dealer.listen(functools.partial(self._on_frames, replica))
        self._tasks = [asyncio.create_task(self._ping(replica)) for replica in self._replicas]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for replica in self._replicas:
            replica.dealer.close()
        self._context.destroy(linger=0)

    @property
    def is_ready(self) -> bool:
        return any(replica.is_ready for replica in self._replicas)

    async def first_ready(self) -> None:
        """Wait until some replica has been ready once."""
        await self._heard.wait()

    def statuses(self) -> list[wire.Status | None]:
        """The newest status of each replica; None where it is not ready."""
        return [replica.status for replica in self._replicas]

    def submit(
        self, sequences: PackedSequences, *, priority: int = 0, param: Callable[[int], str] = "input[{}]".format
    ) -> asyncio.Future[EmbedResult]:
        """Send a request's sequences: the future brings its answer, or EngineLost, ItemFailed or NonFiniteVector.

        Who cancels the future abandons the request. `param` names sequence i in an error. Raises EngineNotReady.
        """
        pending = Pending(sequences, priority, param, asyncio.get_running_loop().create_future())
        if not self._dispatch(pending):
            raise EngineNotReady(state="it is starting or restarting")
        pending.future.add_done_callback(functools.partial(self._on_done, pending))
        return pending.future

    async def embed(self, sequences: PackedSequences) -> EmbedResult:
        """`submit`, and wait."""
        return await self.submit(sequences)

    # ── sending ──

    def _dispatch(self, pending: Pending) -> bool:
        """Give it to the least busy ready replica; False where there is none."""
        ready = [replica for replica in self._replicas if replica.is_ready]
        if not ready:
            return False
        replica = min(ready, key=lambda r: r.tokens_in_flight)
        if not replica.outbox:
            asyncio.get_running_loop().call_soon(self._flush, replica)
        pending.request_id = next(self._request_ids)
        pending.attempts += 1
        replica.take(pending)
        return True

    def _flush(self, replica: Replica) -> None:
        """Send what this turn of the event loop has brought, in one message."""
        waiting = [pending for pending in replica.outbox if not pending.future.done()]
        replica.outbox.clear()
        if waiting and not replica.dealer.send(wire.encode(wire.Requests([p.message() for p in waiting]))):
            for pending in waiting:
                pending.attempts -= 1  # it was not sent
            self._on_lost(replica)

    def _on_done(self, pending: Pending, future: asyncio.Future[EmbedResult]) -> None:
        if future.cancelled():
            self._forget(pending)

    def _forget(self, pending: Pending) -> None:
        """Nobody waits for this request any more: tell the engine that has it."""
        with contextlib.suppress(ValueError):
            self._homeless.remove(pending)
        for replica in self._replicas:
            if replica.settle(pending.request_id):
                replica.dealer.send(wire.encode(wire.Cancel(pending.request_id)))

    async def _ping(self, replica: Replica) -> None:
        ping = wire.encode(wire.Ping())
        while True:
            if not replica.dealer.send(ping) or replica.is_silent:
                self._on_lost(replica)
            await asyncio.sleep(SEEK_SECONDS if replica.status is None else PING_SECONDS)

    # ── receiving ──

    def _on_frames(self, replica: Replica, frames: Sequence[bytes]) -> None:
        try:
            self._on_message(replica, frames)
        except Exception:  # one message must not end the answers to all others
            logger.exception("a message of the engine at %s could not be read", replica.address)

    def _on_message(self, replica: Replica, frames: Sequence[bytes]) -> None:
        header, *arrays = frames
        match wire.decode_to_client(header):
            case wire.Answers() as message:
                replica.answer(message, arrays[0])
            case wire.Status() as message:
                self._on_status(replica, message)

    def _on_status(self, replica: Replica, status: wire.Status) -> None:
        if replica.status is None or replica.status.instance != status.instance:
            self._on_lost(replica)
            logger.info("the engine at %s is ready (process %d)", replica.address, status.pid)
        replica.status, replica.heard_at = status, time.monotonic()
        self._heard.set()
        self._homeless = [pending for pending in self._homeless if not self._dispatch(pending)]

    # ── bookkeeping ──

    def _on_lost(self, replica: Replica) -> None:
        """This engine process is gone, and the requests that it had with it."""
        if replica.status is not None:
            logger.warning("the engine at %s is gone; %d requests wait", replica.address, len(replica.pending))
        replica.status = None
        replica.outbox.clear()
        orphans = [replica.settle(request_id) for request_id in list(replica.pending)]
        for pending in filter(None, orphans):
            if pending.attempts >= MAX_ATTEMPTS:
                _reject(pending.future, EngineLost())
            elif not self._dispatch(pending):
                self._homeless.append(pending)
                asyncio.get_running_loop().call_later(RESCUE_SECONDS, self._give_up, pending)

    def abandon_all(self) -> None:
        """End every request that still waits with ShuttingDown."""
        for replica in self._replicas:
            for pending in list(replica.pending.values()):
                _reject(pending.future, ShuttingDown())
        for pending in self._homeless:
            _reject(pending.future, ShuttingDown())

    def _give_up(self, pending: Pending) -> None:
        if pending in self._homeless:
            self._homeless.remove(pending)
            _reject(pending.future, EngineLost())


def _resolve(future: asyncio.Future[EmbedResult], result: EmbedResult) -> None:
    if not future.done():
        future.set_result(result)


def _reject(future: asyncio.Future[EmbedResult], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
