"""The engine's run loop by itself: requests are put into its queue, and answers come out."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from embedway.engine.batch_time_model import BatchTime, BatchTimeModel
from embedway.engine.coalescing import Coalescing
from embedway.engine.engine_request import EngineRequest
from embedway.engine.guarded_queue import GuardedQueue
from embedway.engine.heart import Heart
from embedway.engine.model_runner import ModelRunner
from embedway.engine.run_loop import RunLoop
from embedway.engine.running_batch import RunningBatch
from embedway.engine.scheduler import Scheduler
from embedway.engine.sequence_key import sequence_keys
from embedway.engine.vector_cache import VectorCache
from embedway.errors import ItemFailed, NonFiniteVector, ServerFault
from embedway.models.interface import EmbeddingModel
from embedway.observability.engine_metrics import EngineMetrics
from fake_device import SECONDS
from fake_model import DIMENSION, MEMORY_ID, NAN_ID, POISON_ID, fake_vector
from running_engine import to_engine


class LoopOfTest:
    """Batches of at most `max_batch_tokens`, each predicted to take `batch_ms`; `cache` bytes of vectors are kept."""

    def __init__(
        self,
        model: EmbeddingModel,
        path: Path | None = None,
        *,
        max_batch_tokens: int = 2,
        batch_ms: float = 0,
        cache: int = 0,
    ) -> None:
        time_model = BatchTimeModel([BatchTime(2, 4.0, batch_ms)] if batch_ms else ())
        runner = ModelRunner(model)
        self.queue = GuardedQueue(
            Scheduler(max_batch_tokens=max_batch_tokens, time_model=time_model, is_preemptible=runner.is_preemptible)
        )
        self.answers: queue.Queue[EngineRequest] = queue.Queue()
        running = RunningBatch(path or Path("/nowhere/at/all"), 4)
        running.open()
        self.loop = RunLoop(
            self.queue,
            runner,
            Coalescing(VectorCache(cache, DIMENSION)),
            time_model,
            answer=lambda requests: [self.answers.put(request) for request in requests],
            heart=Heart(lambda: None),
            running=running,
            metrics=EngineMetrics(),
        )
        self._thread = threading.Thread(target=self.loop.run)
        self._numbers = itertools.count(1)

    def __enter__(self) -> LoopOfTest:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.queue.close()
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()

    def add(self, *requests: Sequence[Sequence[int]]) -> list[int]:
        added = [to_engine(next(self._numbers), sequences) for sequences in requests]
        for request in added:
            request.keys = sequence_keys(request)
        self.queue.change(added, ())
        return [request.request_id for request in added]

    def answered(self) -> EngineRequest:
        return self.answers.get(timeout=SECONDS)


def assert_own_answer(request: EngineRequest, sequences: Sequence[Sequence[int]]) -> None:
    """It has its own vectors, or the fault of its first sequence at fault."""
    faults = [(i, fault) for i, ids in enumerate(sequences) if (fault := fault_of(ids)) is not None]
    assert request.fault == (faults[0] if faults else None)
    if not faults:
        assert request.vectors is not None
        np.testing.assert_array_equal(request.vectors, [fake_vector(ids) for ids in sequences])


def fault_of(ids: Sequence[int]) -> type[ServerFault] | None:
    """FakeModel's."""
    if POISON_ID in ids or MEMORY_ID in ids:
        return ItemFailed
    return NonFiniteVector if NAN_ID in ids else None
