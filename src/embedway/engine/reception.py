"""What becomes of the messages that reach an engine. Runs in its I/O thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from embedway.engine import wire
from embedway.engine.adapter_loads import AdapterLoads
from embedway.engine.coalescing import Coalescing
from embedway.engine.engine_request import EngineRequest, answers_by_client, engine_request
from embedway.engine.guarded_queue import GuardedQueue
from embedway.engine.io_thread import Arrived, Outgoing


class EngineReception:
    """Queues requests once they have their adapters, unless their vectors are known; cancels them; loads adapters;
    answers pings."""

    def __init__(
        self,
        queue: GuardedQueue,
        adapters: AdapterLoads,
        coalescing: Coalescing,
        status: Callable[[], wire.Status],
    ) -> None:
        self._queue = queue
        self._adapters = adapters
        self._coalescing = coalescing
        self._status = status
        self._clients: set[int] = set()
        """Those that have pinged"""

    def receive(self, arrived: Sequence[Arrived]) -> Outgoing:
        added: list[EngineRequest] = []
        cancelled: list[tuple[int, int]] = []
        outgoing: list[tuple[int, bytes, bytes | memoryview]] = []
        for client, message in arrived:
            match message:
                case wire.Requests(requests=requests):
                    came = [engine_request(client, request) for request in requests]
                    added += [request for request in came if not request.refs or self._adapters.provide(request)]
                case wire.Cancel(request_ids=request_ids):
                    for request_id in request_ids:
                        cancelled.append((client, request_id))
                        self._adapters.cancel((client, request_id))
                case wire.Abort():
                    outgoing += [(other, wire.encode(message), b"") for other in self._clients - {client}]
                case wire.LoadAdapter():
                    self._adapters.load(client, message)
                case wire.UnloadAdapter(request_id=request_id, name=name, content_hash=content_hash):
                    self._adapters.unload(name, content_hash)
                    outgoing.append((client, wire.encode(wire.AdapterUnloaded(request_id)), b""))
                case wire.FlushCache(request_id=request_id):
                    self._coalescing.cache.flush()
                    outgoing.append((client, wire.encode(wire.CacheFlushed(request_id)), b""))
                case wire.Ping():
                    self._clients.add(client)
                    outgoing.append((client, wire.encode(self._status()), b""))
        if added or cancelled:
            outgoing += self._queue_or_answer(added, cancelled)
        return outgoing

    def wake(self) -> Outgoing:
        """A load of an adapter has ended."""
        ended = self._adapters.finish()
        answered = self._queue_or_answer(ended.released, ())
        return [*answered, *((client, wire.encode(message), b"") for client, message in ended.answers)]

    def _queue_or_answer(
        self, added: Iterable[EngineRequest], cancelled: Sequence[tuple[int, int]]
    ) -> Iterator[tuple[int, bytes, bytes | memoryview]]:
        """The frames that end those requests whose vectors are known."""
        known: list[EngineRequest] = []
        queued: list[EngineRequest] = []
        for request in added:
            (known if self._coalescing.answer_known(request) else queued).append(request)
        self._queue.change(queued, cancelled)
        return answers_by_client(known, self._coalescing.cache.dimension, time.monotonic())

    def forget(self, client: int) -> None:
        self._clients.discard(client)
        self._adapters.forget(client)
        self._queue.forget(client)
