"""Which LoRA adapters are being loaded, and who waits for them: requests, and calls to load one.

Loads run in threads of their own, one at a time from folders and one from the Hub, whose downloads may take minutes;
all else is state of the I/O thread. A request that needs an adapter which is not loaded is parked here until it has
references to all of its adapters; then it is queued like any other.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from embedway.engine import wire
from embedway.engine.adapter_loader import AdapterLoader, AdapterOrder
from embedway.engine.adapter_store import AdapterStore, LoadedAdapter
from embedway.engine.engine_request import EngineRequest
from embedway.errors import AdapterRefused
from embedway.models.interface import PreparedAdapter

MOST_REMEMBERED = 1000


@dataclass(slots=True, eq=False)
class ParkedRequest:
    """A request that waits for adapters, with those that it has so far: nobody can take them away again."""

    request: EngineRequest
    held: dict[str, PreparedAdapter]
    """By content hash"""

    def hand_over(self) -> bool:
        """Give the request its adapters, if all are there."""
        hashes = [ref.content_hash for ref in self.request.refs]
        if not self.held.keys() >= set(hashes):
            return False
        self.request.adapters = tuple(self.held[content_hash] for content_hash in hashes)
        return True


@dataclass(slots=True, eq=False)
class Load:
    """A load, and who waits for its end."""

    order: AdapterOrder
    parked: list[ParkedRequest] = field(default_factory=list)
    callers: list[tuple[int, int]] = field(default_factory=list)
    """Client and request id of each `LoadAdapter`"""
    is_wanted: bool = True
    """False: it was unloaded meanwhile; what waits for it still gets it."""


@dataclass(frozen=True, slots=True)
class LoadsEnded:
    """What came of the loads that have ended."""

    released: list[EngineRequest] = field(default_factory=list)
    """Requests that have their adapters now"""
    answers: list[tuple[int, wire.ToClient]] = field(default_factory=list)
    """Client and message"""


class AdapterLoads:
    """Belongs to the I/O thread, which calls `finish` whenever `wake` was called."""

    def __init__(self, store: AdapterStore, loader: AdapterLoader, wake: Callable[[], object]) -> None:
        self._store = store
        self._loader = loader
        self._wake = wake
        self._waiting: dict[AdapterOrder, Load] = {}
        """In the order in which they came; what is equal is loaded once"""
        self._running: dict[bool, Load] = {}
        """From a folder, and from the Hub"""
        self._outcomes: queue.SimpleQueue[tuple[bool, LoadedAdapter | AdapterRefused]] = queue.SimpleQueue()
        """Written by the loads' threads"""
        self._unloaded: dict[tuple[str, str], None] = {}
        """Names and content hashes: requests that come late with one get their vectors, but bring it back no more"""
        self._parked: dict[Hashable, ParkedRequest] = {}

    @property
    def num_parked(self) -> int:
        return len(self._parked)

    def provide(self, request: EngineRequest) -> bool:
        """Give a request its adapters; False where it is parked until `finish` releases it or answers for it."""
        parked = ParkedRequest(request, {})
        for ref in request.refs:
            if (prepared := self._store.get(ref.content_hash)) is not None:
                parked.held[ref.content_hash] = prepared
        if parked.hand_over():
            return True
        self._parked[request.key] = parked
        for ref in {ref.content_hash: ref for ref in request.refs if ref.content_hash not in parked.held}.values():
            self._load_of(AdapterOrder.of_ref(ref)).parked.append(parked)
        self._start_next()
        return False

    def cancel(self, key: Hashable) -> None:
        """Nobody waits for this request any more. What is loaded for it is loaded none the less."""
        self._parked.pop(key, None)

    def forget(self, client: int) -> None:
        """The client has gone, and nobody waits for its requests."""
        for key in [key for key, parked in self._parked.items() if parked.request.client == client]:
            self.cancel(key)

    def load(self, client: int, message: wire.LoadAdapter) -> None:
        """Read an adapter's files, however often it was loaded before: they may hold something else now."""
        self._load_of(AdapterOrder(message.adapter)).callers.append((client, message.request_id))
        self._start_next()

    def unload(self, name: str, content_hash: str) -> None:
        self._store.discard(name, content_hash)
        self._unloaded[name, content_hash] = None
        if len(self._unloaded) > MOST_REMEMBERED:
            del self._unloaded[next(iter(self._unloaded))]
        for load in (*self._waiting.values(), *self._running.values()):
            if (load.order.adapter.name, load.order.content_hash) == (name, content_hash):
                load.is_wanted = False

    def finish(self) -> LoadsEnded:
        """End the loads whose threads are done, and begin the next."""
        ended = LoadsEnded()
        while not self._outcomes.empty():
            is_local, outcome = self._outcomes.get()
            load = self._running.pop(is_local)
            if isinstance(outcome, LoadedAdapter) and load.order.content_hash is None:
                self._unloaded.pop((outcome.ref.name, outcome.ref.content_hash), None)
            self._settle(load, outcome, ended)
            if isinstance(outcome, LoadedAdapter):
                for order in [order for order in self._waiting if order.content_hash == outcome.ref.content_hash]:
                    self._settle(self._waiting.pop(order), LoadedAdapter(order.ref(), outcome.prepared), ended)
        self._start_next()
        return ended

    def _load_of(self, order: AdapterOrder) -> Load:
        """The load of this order that has not begun: one that has may have read files that are different now."""
        is_wanted = (order.adapter.name, order.content_hash) not in self._unloaded
        return self._waiting.setdefault(order, Load(order, is_wanted=is_wanted))

    def _start_next(self) -> None:
        for order in list(self._waiting):
            if (is_local := order.is_local) not in self._running:
                self._running[is_local] = self._waiting.pop(order)
                arguments = (is_local, order, self._store.prepared())
                threading.Thread(target=self._run, args=arguments, name="adapter load", daemon=True).start()

    def _run(self, is_local: bool, order: AdapterOrder, loaded: dict[str, PreparedAdapter]) -> None:
        """The load's thread."""
        try:
            self._outcomes.put((is_local, self._loader.load(order, loaded)))
        except AdapterRefused as refused:
            self._outcomes.put((is_local, refused))
        self._wake()

    def _settle(self, load: Load, outcome: LoadedAdapter | AdapterRefused, ended: LoadsEnded) -> None:
        kept, is_new = outcome, False
        if isinstance(outcome, LoadedAdapter) and load.is_wanted:
            try:
                is_new = self._store.add(outcome)
            except AdapterRefused as refused:  # no room: what waits for it gets it all the same
                kept = refused
        for client, request_id in load.callers:
            ended.answers.append((client, answer(request_id, kept, is_new=is_new)))
        for parked in load.parked:
            if self._parked.get(parked.request.key) is not parked:
                continue  # cancelled, or another of its adapters was refused
            if isinstance(outcome, AdapterRefused):
                del self._parked[parked.request.key]
                request = parked.request
                ended.answers.append((request.client, answer(request.request_id, outcome)))
                continue
            parked.held[outcome.ref.content_hash] = outcome.prepared
            if parked.hand_over():
                del self._parked[parked.request.key]
                ended.released.append(parked.request)


def answer(request_id: int, outcome: LoadedAdapter | AdapterRefused, *, is_new: bool = False) -> wire.ToClient:
    if isinstance(outcome, AdapterRefused):
        return wire.AdapterRefusal(request_id, outcome.adapter, outcome.problem)
    return wire.AdapterLoaded(request_id, outcome.ref, is_new)
