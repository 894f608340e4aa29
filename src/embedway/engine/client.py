"""The API's side of the engine: one awaitable a request, over one connection a replica.

A request goes to the ready replica with the fewest tokens in flight. When an engine dies its unanswered requests are
sent again, to another replica or to its successor (`orphans.py`). One that two engines were computing as they died ends
in `EngineCrashed`.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import math
import secrets
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

from embedway.adapter_ref import AdapterRef
from embedway.engine import wire
from embedway.engine.adapter_calls import load_on_all, unload_on_all
from embedway.engine.in_flight import EmbedResult, Pending, Terms
from embedway.engine.orphans import Orphans
from embedway.engine.parts import joined, parts_of
from embedway.engine.replica import Replica
from embedway.errors import EngineCrashed, EngineLost, EngineNotReady
from embedway.packed_sequences import PackedSequences

MAX_ATTEMPTS = 4
"""A request that lost so many engines, though none while it ran, ends in EngineLost, too."""
ANY_TERMS = Terms()


class EngineClient:
    """Made in an event loop: `async with EngineClient(addresses) as engine: await engine.embed(...)`."""

    def __init__(self, addresses: Sequence[str], *, on_abort: Callable[[str | None], object] = lambda _: None) -> None:
        """`on_abort` is called as another API process calls `abort`."""
        self._on_abort = on_abort
        self._replicas = [self._replica_at(address) for address in addresses]
        self._successors: dict[Replica, Replica] = {}
        """Those that have not answered yet → those whose place they are to take"""
        self._leaving: list[Replica] = []
        """Those that have a successor, and answer what they were given before"""
        self._orphans = Orphans(self._dispatch)
        self._request_ids = itertools.count(secrets.randbits(62))  # no two clients of an engine have one in common
        self._heard = asyncio.Event()

    async def __aenter__(self) -> EngineClient:
        for replica in self._replicas:
            replica.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for replica in (*self._replicas, *self._successors, *self._leaving):
            await replica.stop()
        self.give_up()

    @property
    def is_ready(self) -> bool:
        return any(replica.is_ready for replica in self._replicas)

    async def first_ready(self) -> None:
        """Wait until some replica has been ready once, or none is to come."""
        await self._heard.wait()

    def give_up(self) -> None:
        """No engine is to come: what waits for one ends in EngineLost, and nobody waits for `first_ready`."""
        for replica in (*self._replicas, *self._successors, *self._leaving):
            if not replica.is_ready:
                for pending in replica.in_flight.settle_all():
                    pending.reject(EngineLost())
        self._orphans.give_up()
        self._heard.set()

    def statuses(self) -> list[wire.Status | None]:
        """The newest status of each replica; None where it is not ready."""
        return [replica.status for replica in self._replicas]

    def tokens_per_second(self) -> float:
        """What the ready replicas do together, by their time models; infinite where that is not known."""
        return sum([replica.tokens_per_second for replica in self._replicas]) or math.inf

    def abort(self, http_request_id: str | None) -> bool:
        """Tell the other API processes to end the requests of this id, or all; this one ends its own.

        False where no engine is there to pass it on.
        """
        replica = next((replica for replica in self._replicas if replica.is_ready), None)
        if replica is not None:
            replica.pass_on(wire.Abort(http_request_id))
        return replica is not None

    def submit(self, sequences: PackedSequences, terms: Terms = ANY_TERMS) -> asyncio.Future[EmbedResult]:
        """Send a request's sequences: the future brings its answer, or EngineLost, ItemFailed or NonFiniteVector.

        It brings AdapterRefused where an engine that has to load one of its adapters finds other files than it was
        told, or none. Who cancels the future abandons the request. Raises EngineNotReady.
        """
        if sequences.visuals and (parts := parts_of(sequences)) is not None:
            whole = replace(terms, whole_tokens=sequences.num_tokens)
            return asyncio.ensure_future(self._submit_parts(parts, whole))
        return self._submit(sequences, terms)

    async def _submit_parts(self, parts: Iterable[PackedSequences], terms: Terms) -> EmbedResult:
        """Each part once the engine has taken the one before, so that other requests go between them."""
        answers: list[asyncio.Future[EmbedResult]] = []
        first = 0
        try:
            for part in parts:
                own = replace(terms, param=lambda i, first=first: terms.param(first + i))
                answers.append(self._submit(part, own, may_wait=bool(answers)))
                first += part.num_sequences
                await asyncio.sleep(0)  # it is sent at the end of this turn
                if replica := self._least_busy():
                    await replica.room()
            return await asyncio.to_thread(joined, await asyncio.gather(*answers))
        finally:
            while answers:  # none is kept: one that failed has its error, which has this frame
                answers.pop().cancel()  # those that are not there yet, where one has failed

    def _submit(
        self, sequences: PackedSequences, terms: Terms, *, may_wait: bool = False
    ) -> asyncio.Future[EmbedResult]:
        """`may_wait`: it is a part of what was accepted, and waits for an engine where there is none any more."""
        pending = Pending(sequences, terms, asyncio.get_running_loop().create_future())
        if not self._dispatch(pending):
            if not may_wait:
                raise EngineNotReady(state="it is starting or restarting")
            self._orphans.take(pending)
        pending.future.add_done_callback(functools.partial(self._on_done, pending))
        return pending.future

    async def embed(self, sequences: PackedSequences, terms: Terms = ANY_TERMS) -> EmbedResult:
        """`submit`, and wait."""
        return await self.submit(sequences, terms)

    async def load_adapter(self, name: str, source: str, *, pinned: bool = False) -> AdapterRef:
        """Load a LoRA adapter on every ready replica, from a folder or a Hugging Face id; may take minutes.

        Its files are read even where it was loaded before. Raises AdapterRefused, and then nothing is changed,
        EngineNotReady or EngineLost.
        """
        return await load_on_all(self._replicas, wire.AdapterSource(name, source, pinned), self._request_ids)

    async def unload_adapter(self, ref: AdapterRef) -> None:
        """Have every replica let go of an adapter; requests that were sent before get their vectors."""
        await unload_on_all(self._replicas, ref, self._request_ids)

    async def flush_cache(self) -> None:
        """Have every ready replica forget its vectors; one that is lost meanwhile has forgotten them. Raises
        EngineNotReady where no replica is ready.
        """
        ready = [replica for replica in self._replicas if replica.is_ready]
        if not ready:
            raise EngineNotReady(state="it is starting or restarting")
        await asyncio.gather(*(replica.call(wire.FlushCache(next(self._request_ids))) for replica in ready))

    def _dispatch(self, pending: Pending) -> bool:
        """Give it to the least busy ready replica; False where there is none."""
        if (replica := self._least_busy()) is None:
            return False
        pending.request_id = next(self._request_ids)
        replica.send(pending)
        return True

    def _least_busy(self) -> Replica | None:
        ready = [replica for replica in self._replicas if replica.is_ready]
        return min(ready, key=lambda replica: replica.in_flight.num_tokens, default=None)

    def _on_done(self, pending: Pending, future: asyncio.Future[EmbedResult]) -> None:
        """Where nobody waits any more, tell the engine that has it."""
        if future.cancelled():
            for replica in (*self._replicas, *self._leaving):
                replica.cancel(pending.request_id)

    def _replica_at(self, address: str) -> Replica:
        return Replica(
            address,
            on_status=self._on_status,
            on_orphans=self._on_orphans,
            on_abort=self._on_abort,
            on_retiring=self._on_retiring,
        )

    def _on_retiring(self, old: Replica) -> None:
        """Look for the engine that has taken its address; until it answers, the old one serves."""
        successor = self._replica_at(old.address)
        self._successors[successor] = old
        successor.start()

    def _on_status(self, replica: Replica) -> None:
        if (old := self._successors.pop(replica, None)) is not None:
            self._replicas[self._replicas.index(old)] = replica
            self._leaving = [other for other in (*self._leaving, old) if not other.has_left]
            old.leave()
        self._heard.set()
        self._orphans.send_next()

    def _on_orphans(self, orphans: Sequence[Pending], running: Collection[int]) -> None:
        """Have the requests of an engine that was lost sent to another one.

        `running` has the ids of those that it was computing. Whatever has lost two is suspect all the same: a request
        may end an engine before it runs.
        """
        for pending in orphans:
            was_running = pending.request_id in running
            if was_running and pending.is_suspect:
                pending.reject(EngineCrashed())
                continue
            if pending.attempts >= MAX_ATTEMPTS:
                pending.reject(EngineLost())
                continue
            pending.is_suspect |= was_running or pending.attempts > 1
            self._orphans.take(pending)
        self._orphans.send_next()
