"""Equal sequences are computed once: what of a request, and of a batch, the model has to do.

A sequence is looked up twice, by its key (`sequence_key.py`): as its request comes, which is answered at once if all of
it is known, and as its turn comes in a batch, when an equal one may have run meanwhile, or runs beside it. In between
every sequence waits in the queue by itself. So none depends on another's priority, deadline or client, one that is
cancelled takes nothing with it, and what is kept meanwhile may be forgotten; and no two equal ones ever run at a time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from embedway.engine.engine_request import EngineRequest
from embedway.engine.model_runner import BatchOutcome
from embedway.engine.scheduler import BatchSlice
from embedway.engine.sequence_key import sequence_keys
from embedway.engine.vector_cache import VectorCache

MOST_PIXEL_BYTES = 4 << 20
"""To hash more, as of a long video, would hold up the I/O thread for too long: such a request shares nothing."""


def num_pixel_bytes(request: EngineRequest) -> int:
    return sum(visual.num_bytes for own in request.visuals.values() for visual in own)


@dataclass(slots=True)
class SharedBatch:
    """A batch of which each sequence is there once."""

    slices: list[BatchSlice[EngineRequest]] = field(default_factory=list)
    """What the model has to compute"""
    num_rows: int = 0
    """Of all slices together: sequences are counted through"""
    rows: dict[bytes, int] = field(default_factory=dict)
    """By key, in order: those whose vectors may be shared, and kept"""
    sharers: list[tuple[EngineRequest, int, int]] = field(default_factory=list)
    """A request, its sequence, and the row that is its vector, too"""
    answered: list[EngineRequest] = field(default_factory=list)
    """Requests that need the model no more"""

    def add(self, piece: BatchSlice[EngineRequest], keys: Sequence[bytes]) -> None:
        """Have a slice computed; `keys` is empty where nobody shares it."""
        for row, key in enumerate(keys, self.num_rows):
            self.rows[key] = row
        self.num_rows += piece.stop - piece.start
        last = self.slices[-1] if self.slices else None
        if last is not None and last.request is piece.request and last.stop == piece.start:
            self.slices[-1] = BatchSlice(piece.request, last.start, piece.stop)
        else:
            self.slices.append(piece)

    @property
    def request_ids(self) -> set[int]:
        """Of all requests with a part in it"""
        return {piece.request.request_id for piece in self.slices} | {
            request.request_id for request, _, _ in self.sharers
        }

    def store(self, outcome: BatchOutcome, started_at: float) -> list[EngineRequest]:
        """Give all sequences their vectors, or faults; the requests that are done now."""
        done: list[EngineRequest] = []
        first = 0
        for piece in self.slices:
            stop = first + piece.stop - piece.start
            for row in outcome.faults:
                if first <= row < stop:
                    piece.request.fail(piece.start + row - first, outcome.faults[row])
            if piece.request.store(piece.start, outcome.vectors[first:stop], started_at):
                done.append(piece.request)
            first = stop
        for request, sequence, row in self.sharers:
            if row in outcome.faults:
                request.fail(sequence, outcome.faults[row])
            if request.store(sequence, outcome.vectors[row : row + 1], started_at):
                done.append(request)
        return done


class Coalescing:
    """Between the engine's reception and its queue, and between that and the model."""

    def __init__(self, cache: VectorCache) -> None:
        """A cache without room turns all of it off: every sequence is computed."""
        self.cache = cache
        self._num_known = 0
        """Sequences of requests that were never queued. Only the I/O thread writes it"""
        self._num_found = 0
        """Sequences whose vectors were there when their turn came. Only the run loop writes it and the next."""
        self.num_coalesced = 0
        """Sequences that took the vector of an equal one in their batch, or in the one that ran"""

    @property
    def num_hits(self) -> int:
        """Sequences whose vectors were in the cache."""
        return self._num_known + self._num_found

    def answer_known(self, request: EngineRequest) -> bool:
        """Answer a request that has come, if all of its vectors are known; otherwise it is to be queued.

        Called in the I/O thread.
        """
        if request.fresh or not self.cache.has_room or num_pixel_bytes(request) > MOST_PIXEL_BYTES:
            return False
        request.keys = sequence_keys(request)
        vectors = self.cache.find_all(request.keys)
        if vectors is None:
            return False
        self._num_known += len(vectors)
        return request.store(0, vectors, time.monotonic())

    def share(self, slices: Sequence[BatchSlice[EngineRequest]], running: SharedBatch | None = None) -> SharedBatch:
        """What of the queue's next batch is to be computed; `running` is the batch that runs, and gives what it has.

        In the run loop, as the next.
        """
        batch = SharedBatch()
        batches = (batch,) if running is None else (batch, running)
        for piece in slices:
            keys = piece.request.keys
            if keys is None:
                batch.add(piece, ())
            else:
                self._share(batches, piece, keys[piece.start : piece.stop])
        return batch

    def _share(self, batches: Sequence[SharedBatch], piece: BatchSlice[EngineRequest], keys: Sequence[bytes]) -> None:
        """Add a slice to the first of `batches`, but for what is known or is computed in one of them."""
        batch = batches[0]
        found = self.cache.find(keys)
        is_new = not found.indices and all(other.rows.keys().isdisjoint(keys) for other in batches)
        if is_new and len(set(keys)) == len(keys):
            batch.add(piece, keys)
            return
        request, now = piece.request, time.monotonic()
        known = dict(zip(found.indices, found.vectors, strict=True))
        for i, key in enumerate(keys):
            sequence = piece.start + i
            if i in known:
                self._num_found += 1
                if request.store(sequence, known[i][None], now):
                    batch.answered.append(request)
            elif owner := next((other for other in batches if key in other.rows), None):
                self.num_coalesced += 1
                owner.sharers.append((request, sequence, owner.rows[key]))
            else:
                batch.add(BatchSlice(request, sequence, sequence + 1), [key])

    def keep(self, batch: SharedBatch, outcome: BatchOutcome) -> None:
        """Remember the vectors of a batch that has run, but for those at fault."""
        if not outcome.faults and len(batch.rows) == batch.num_rows:
            self.cache.put([*batch.rows], outcome.vectors)
        elif kept := {key: row for key, row in batch.rows.items() if row not in outcome.faults}:
            self.cache.put([*kept], outcome.vectors[[*kept.values()]])
