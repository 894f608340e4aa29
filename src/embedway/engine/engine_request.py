"""A request in the engine: from its message to the frames that answer it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedway.adapter_ref import AdapterRef
from embedway.engine import wire
from embedway.engine.scheduler import QueuedRequest
from embedway.errors import ServerFault
from embedway.visual import Visual


@dataclass(slots=True, eq=False)
class EngineRequest(QueuedRequest):
    """A queued request with its answer as it grows. Once it is queued, only the run loop writes the answer."""

    client: int = 0
    request_id: int = 0
    refs: tuple[AdapterRef, ...] = ()
    """Of `adapters`, which the request gets before it is queued"""
    arrived_at: float = 0.0
    expires_at: float = math.inf
    started_at: float = 0.0
    fresh: bool = False
    """Nothing that was computed for others is to answer it"""
    keys: Sequence[bytes] | None = None
    """Of its sequences, by `coalescing.py`; None: it shares nothing with others"""
    vectors: npt.NDArray[np.float32] | None = None
    """float32 [n, dimension]; rows of somebody else's array where they came all at once"""
    num_done: int = 0
    fault: tuple[int, type[ServerFault]] | None = None
    """The first sequence at fault, and its error."""

    def store(self, start: int, rows: npt.NDArray[np.float32], at: float) -> bool:
        """Take the vectors of its sequences from `start` on, begun `at` this moment; whether it is done now."""
        if self.num_done == 0:
            self.started_at = at
        if len(rows) == self.num_sequences:
            self.vectors = rows
        else:
            if self.vectors is None:
                self.vectors = np.empty((self.num_sequences, rows.shape[1]), dtype=np.float32)
            self.vectors[start : start + len(rows)] = rows
        self.num_done += len(rows)
        return self.num_done == self.num_sequences

    def fail(self, sequence: int, fault: type[ServerFault]) -> None:
        """Sequence `sequence` is at fault; a request tells of the first."""
        if self.fault is None or sequence < self.fault[0]:
            self.fault = (sequence, fault)


def engine_request(client: int, message: wire.Embed) -> EngineRequest:
    request = EngineRequest(
        key=(client, message.request_id),
        token_ids=np.frombuffer(message.token_ids, dtype="<i4"),
        cu_seqlens=np.frombuffer(message.cu_seqlens, dtype="<i4"),
        pool_start=message.pool_start,
        priority=message.priority,
        key_number=message.key_number,
        client=client,
        request_id=message.request_id,
        arrived_at=time.monotonic(),
        fresh=message.fresh,
        whole_tokens=message.whole_tokens,
    )
    if message.timeout_ms is not None:
        request.expires_at = request.arrived_at + message.timeout_ms / 1000
    if message.adapters is not None:
        request.refs = tuple(message.adapters.refs)
        request.adapter_indices = np.frombuffer(message.adapters.indices, dtype="<i4")
    if message.visuals:
        request.visuals = visuals_of(message.visuals)
    return request


def visuals_of(messages: Sequence[wire.EmbedVisual]) -> dict[int, tuple[Visual, ...]]:
    """By sequence; the pixels are those of the message, not copied."""
    visuals: dict[int, tuple[Visual, ...]] = {}
    for message in messages:
        pixels = np.frombuffer(message.pixels, dtype=np.uint8).reshape(*message.shape, 3)
        visual = Visual(message.kind, pixels, message.num_tokens, message.timestamps)
        visuals[message.sequence] = (*visuals.get(message.sequence, ()), visual)
    return visuals


def answers(requests: Iterable[EngineRequest], dimension: int, now: float) -> tuple[bytes, bytes | memoryview]:
    """The frames that end these requests of one client."""
    message = wire.Answers(dimension, embedded=[], failed=[])
    vectors: list[npt.NDArray[np.float32]] = []
    for request in requests:
        if request.fault is not None:
            item, fault = request.fault
            message.failed.append(wire.Failed(request.request_id, fault.code, item))
            continue
        assert request.vectors is not None
        vectors.append(request.vectors)
        queue_seconds, compute_seconds = request.started_at - request.arrived_at, now - request.started_at
        message.embedded.append(
            wire.Embedded(request.request_id, request.num_sequences, queue_seconds, compute_seconds)
        )
    return wire.encode(message), np.concatenate(vectors).data.cast("B") if vectors else b""


def answers_by_client(
    requests: Iterable[EngineRequest], dimension: int, now: float
) -> Iterator[tuple[int, bytes, bytes | memoryview]]:
    """Each client's number, and the frames that end its requests."""
    by_client: dict[int, list[EngineRequest]] = {}
    for request in requests:
        by_client.setdefault(request.client, []).append(request)
    for client, own in by_client.items():
        yield client, *answers(own, dimension, now)
