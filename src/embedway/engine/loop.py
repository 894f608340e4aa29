"""The engine process: receive → schedule → run → reply.

Two threads. The I/O thread owns the socket: it queues requests, cancels them, answers pings at any moment and sends
replies. The run loop owns the model: it takes a batch, runs it and hands the answers over.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import zmq

from embedway.child_process import ParentLink
from embedway.engine import wire
from embedway.engine.batch import num_squares, pack
from embedway.engine.batch_time_model import BatchTime, BatchTimeModel
from embedway.engine.model_runner import BatchOutcome, ModelRunner
from embedway.engine.scheduler import BatchSlice, QueuedRequest, Scheduler
from embedway.engine.warm_up import warm_up
from embedway.engine.wire import EngineConfig
from embedway.errors import ServerFault, StartupError
from embedway.models.interface import EmbeddingModel
from embedway.observability.logs import configure_logging

logger = logging.getLogger("embedway.engine")

TARGET_BATCH_MS = {"cpu": 40.0, "cuda": 50.0}
"""By the kind of device, where the settings do not say. On a CPU the model is no faster in larger batches, but what
surrounds each is (waking, replies, the API process): 64 connections of queries got a third more than at 20."""
MAX_MESSAGES_AT_ONCE = 256
"""That the I/O thread reads before it looks for answers to send"""


@dataclass(slots=True, eq=False)
class EngineRequest(QueuedRequest):
    """A queued request with its answer as it grows. Only the run loop writes the answer."""

    client: bytes = b""
    request_id: int = 0
    arrived_at: float = 0.0
    started_at: float = 0.0
    vectors: npt.NDArray[np.float32] | None = None
    """float32 [n, dimension]; rows of the batch's own array where one batch had the whole request"""
    num_done: int = 0
    fault: tuple[int, type[ServerFault]] | None = None
    """The first sequence at fault, and its error."""


class GuardedQueue:
    """The scheduler behind a lock: the I/O thread adds and cancels, the run loop takes."""

    def __init__(self, scheduler: Scheduler[EngineRequest]) -> None:
        self._scheduler = scheduler
        self._changed = threading.Condition()
        self._is_closed = False

    def change(self, added: Iterable[EngineRequest], cancelled: Iterable[tuple[bytes, int]]) -> None:
        """Add requests, then cancel some of those that are in the queue."""
        with self._changed:
            for request in added:
                self._scheduler.add(request)
            for key in cancelled:
                self._scheduler.cancel(key)
            self._changed.notify()

    def depth(self) -> tuple[int, int]:
        """Queued requests, queued tokens."""
        with self._changed:
            return self._scheduler.queued_requests, self._scheduler.queued_tokens

    def take(self) -> list[BatchSlice[EngineRequest]]:
        """Wait for work and take the next batch; empty once the queue is closed."""
        with self._changed:
            while not self._is_closed:
                if slices := self._scheduler.next_batch():
                    return slices
                self._changed.wait()
            return []

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify()


@dataclass(slots=True)
class Counters:
    """Totals since the start. Written by the run loop alone."""

    batches: int = 0
    tokens: int = 0
    sequences: int = 0
    compute_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class EngineIdentity:
    """What never changes while an engine lives."""

    model: EmbeddingModel
    threads: int
    load_seconds: float
    instance: str = field(default_factory=lambda: uuid.uuid4().hex)


class Engine:
    """One model behind one socket."""

    def __init__(
        self,
        identity: EngineIdentity,
        *,
        address: str,
        max_batch_tokens: int,
        target_batch_ms: float = math.inf,
        time_model: BatchTimeModel | None = None,
    ) -> None:
        self._identity = identity
        self._runner = ModelRunner(identity.model)
        self._target_batch_ms = target_batch_ms
        self._time_model = time_model or BatchTimeModel()
        self._queue = GuardedQueue(
            Scheduler(max_batch_tokens=max_batch_tokens, target_ms=target_batch_ms, time_model=self._time_model)
        )
        self._counters = Counters()
        self._context = zmq.Context()
        self._replies = self._context.socket(zmq.PUSH)
        self._replies.bind("inproc://replies")
        self._io = threading.Thread(target=self._run_io, args=(address,), name="io", daemon=True)
        self._is_bound = threading.Event()
        self._io_error: Exception | None = None

    def run(self, on_ready: Callable[[], object] = lambda: None) -> None:
        """Serve until `stop`. `on_ready` is called once the socket is bound.

        Raises what ended the I/O thread: an engine that can answer nobody must end, and be started anew.
        """
        self._io.start()
        self._is_bound.wait()
        if self._io_error is None:
            on_ready()
        while slices := self._queue.take():
            self._run_batch(slices)
        if self._io_error is None:
            self._replies.send(b"")  # the I/O thread's word to end
        self._io.join()
        self._context.destroy(linger=0)
        if self._io_error is not None:
            raise self._io_error

    def stop(self) -> None:
        """End `run` after the batch it is at; what waits in the queue is dropped. Callable from any thread."""
        self._queue.close()

    # ── the run loop's thread ──

    def _run_batch(self, slices: list[BatchSlice[EngineRequest]]) -> None:
        started_at = time.monotonic()
        batch = pack(slices)
        outcome = self._runner.run(batch)
        ended_at = time.monotonic()
        self._counters.batches += 1
        self._counters.tokens += batch.num_tokens
        self._counters.sequences += batch.num_sequences
        self._counters.compute_seconds += ended_at - started_at
        ended: dict[bytes, list[EngineRequest]] = {}
        first = 0
        for piece in slices:
            store_outcome(piece, outcome, first, started_at)
            first += piece.stop - piece.start
            if piece.request.num_done == piece.request.num_sequences:
                ended.setdefault(piece.request.client, []).append(piece.request)
        for client, requests in ended.items():
            self._replies.send_multipart([client, *answers(requests, outcome.vectors.shape[1], ended_at)])
        if not outcome.was_halved:
            took_ms = (ended_at - started_at) * 1000
            self._time_model.observe(BatchTime(batch.num_tokens, num_squares(batch), took_ms))

    # ── the I/O thread ──

    def _run_io(self, address: str) -> None:
        try:
            self._serve_socket(address)
        except Exception as error:
            self._io_error = error
            self._queue.close()
        finally:
            self._is_bound.set()

    def _serve_socket(self, address: str) -> None:
        router = self._context.socket(zmq.ROUTER)
        # A router drops messages over its high-water mark: it must have none. What may queue is bounded by admission.
        router.set_hwm(0)
        router.linger = 0
        router.bind(address)
        replies = self._context.socket(zmq.PULL)
        replies.set_hwm(0)
        replies.connect("inproc://replies")
        self._is_bound.set()
        poller = zmq.Poller()
        poller.register(router, zmq.POLLIN)
        poller.register(replies, zmq.POLLIN)
        is_open = True
        while is_open:
            ready = dict(poller.poll())
            if replies in ready:
                frames = replies.recv_multipart()
                is_open = len(frames) > 1
                if is_open:
                    router.send_multipart(frames)
            if router in ready:
                self._receive(router)
        replies.close()
        router.close()

    def _receive(self, router: zmq.Socket[bytes]) -> None:
        """Read what has arrived: the next batch should have the choice of all of it."""
        added: list[EngineRequest] = []
        cancelled: list[tuple[bytes, int]] = []
        for _ in range(MAX_MESSAGES_AT_ONCE):
            try:
                client, frame = router.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                break
            match wire.decode_to_engine(frame):
                case wire.Requests(requests=requests):
                    added += [queued_request(client, message) for message in requests]
                case wire.Cancel(request_id=request_id):
                    cancelled.append((client, request_id))
                case wire.Ping():
                    router.send_multipart([client, wire.encode(self._status())])
        if added or cancelled:
            self._queue.change(added, cancelled)

    def _status(self) -> wire.Status:
        queued_requests, queued_tokens = self._queue.depth()
        coefficients, errors = self._time_model.coefficients, self._time_model.errors()
        return wire.Status(
            instance=self._identity.instance,
            pid=os.getpid(),
            dtype=self._identity.model.dtype,
            device=self._identity.model.device,
            dimension=self._identity.model.dimension,
            threads=self._identity.threads,
            load_seconds=self._identity.load_seconds,
            queued_requests=queued_requests,
            queued_tokens=queued_tokens,
            batches=self._counters.batches,
            tokens=self._counters.tokens,
            sequences=self._counters.sequences,
            compute_seconds=self._counters.compute_seconds,
            mean_batch_tokens=round(self._counters.tokens / max(1, self._counters.batches), 1),
            target_batch_ms=self._target_batch_ms,
            batch_fixed_ms=coefficients.fixed,
            batch_ms_per_token=coefficients.per_token,
            batch_ms_per_square=coefficients.per_square,
            batch_time_error_median=errors.median,
            batch_time_error_p90=errors.p90,
            facts=self._identity.model.facts,
        )


def queued_request(client: bytes, message: wire.Embed) -> EngineRequest:
    return EngineRequest(
        key=(client, message.request_id),
        token_ids=np.frombuffer(message.token_ids, dtype="<i4"),
        cu_seqlens=np.frombuffer(message.cu_seqlens, dtype="<i4"),
        pool_start=message.pool_start,
        priority=message.priority,
        client=client,
        request_id=message.request_id,
        arrived_at=time.monotonic(),
    )


def store_outcome(piece: BatchSlice[EngineRequest], outcome: BatchOutcome, first: int, started_at: float) -> None:
    """Write a slice's part of a batch's outcome, which begins at row `first`, into its request."""
    request, num_rows = piece.request, piece.stop - piece.start
    rows = outcome.vectors[first : first + num_rows]
    if request.num_done == 0:
        request.started_at = started_at
    if num_rows == request.num_sequences:
        request.vectors = rows
    else:
        if request.vectors is None:
            request.vectors = np.empty((request.num_sequences, rows.shape[1]), dtype=np.float32)
        request.vectors[piece.start : piece.stop] = rows
    request.num_done += num_rows
    if outcome.faults and request.fault is None:
        faulty = min((row for row in outcome.faults if first <= row < first + num_rows), default=None)
        if faulty is not None:
            request.fault = (piece.start + faulty - first, outcome.faults[faulty])


def answers(requests: Iterable[EngineRequest], dimension: int, now: float) -> list[bytes | memoryview]:
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
    return [wire.encode(message), np.concatenate(vectors).data if vectors else b""]


def load(config: EngineConfig) -> EngineIdentity:
    """Import the model's libraries and load its weights. Raises UnsupportedCheckpoint or InvalidSetting."""
    began = time.monotonic()
    from embedway.models.architectures import load_model
    from embedway.models.cpu_threads import available_cores

    threads = config.threads or available_cores()
    model = load_model(config.spec, dtype=config.dtype, device=config.device, threads=threads)
    return EngineIdentity(model, threads=threads, load_seconds=time.monotonic() - began)


def main(load: Callable[[EngineConfig], EngineIdentity] = load) -> None:
    """The engine process's entry. `load` is the seam at which tests put a model of theirs."""
    # A service manager may signal every process at once: the supervisor says when an engine has to go.
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, signal.SIG_IGN)
    link = ParentLink()
    config = link.read_config(EngineConfig)
    configure_logging(config.log_level, process="engine")
    # The API processes have drained by the time that the supervisor lets go: there is nothing to finish.
    link.on_parent_gone(lambda: os._exit(0))
    try:
        identity = load(config)
    except StartupError as error:
        link.fail(error)
    else:
        engine = Engine(
            identity,
            address=config.address,
            max_batch_tokens=config.max_batch_tokens,
            target_batch_ms=config.target_batch_ms or TARGET_BATCH_MS[identity.model.device.partition(":")[0]],
            time_model=warm_up(identity.model, max_length=config.spec.max_length, vocab_size=config.spec.vocab_size),
        )
        engine.run(on_ready=lambda: link.announce_ready(facts_of(identity)))


def facts_of(identity: EngineIdentity) -> dict[str, str]:
    """For the start-up banner."""
    return {
        **identity.model.facts,
        "dtype": identity.model.dtype,
        "device": identity.model.device,
        "threads": str(identity.threads),
        "load_seconds": f"{identity.load_seconds:.1f}",
    }


if __name__ == "__main__":
    main()
