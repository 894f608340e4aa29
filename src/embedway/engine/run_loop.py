"""The engine's run loop: it takes batches from the queue, has the model compute them, and hands the answers over.

On a device that works on its own, a GPU, the next batch is launched shortly before the one that runs ends, and what
surrounds a batch (packing, launching, answering) costs the device nothing. Not earlier: what comes meanwhile, and is
more urgent, would wait for two batches instead of one. And only a batch that is full: others grow until they run, and
several small ones take longer than one.

On a CPU the model's layers are the caller's work. Where it can be left between two of them (`PreemptibleModel`), small
requests run in the midst of a batch of others: they wait for a part of a layer, where a long text in a large model
takes seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from embedway.engine.batch import num_squares, pack
from embedway.engine.batch_time_model import BatchTime, BatchTimeModel
from embedway.engine.coalescing import Coalescing, SharedBatch
from embedway.engine.engine_request import EngineRequest
from embedway.engine.guarded_queue import GuardedQueue
from embedway.engine.heart import Heart
from embedway.engine.model_runner import BatchOutcome, BatchRun, ModelRunner
from embedway.engine.running_batch import RunningBatch
from embedway.engine.scheduler import BatchSlice
from embedway.models.interface import Preemption
from embedway.observability.engine_metrics import EngineMetrics

MOST_LEAD_MS = 5.0
LEAD_SHARE = 0.25
"""The next batch is launched so long before the predicted end of the one that runs: enough for Python to launch the
hundreds of kernels of a model, but no more than this part of a batch."""
POLL_SECONDS = 0.0005


@dataclass(slots=True)
class Counters:
    """Totals since the start. Written by the run loop alone."""

    batches: int = 0
    tokens: int = 0
    sequences: int = 0
    compute_seconds: float = 0.0


@dataclass(slots=True)
class BegunBatch:
    """One that the model was given."""

    shared: SharedBatch
    run: BatchRun
    predicted: BatchTime
    started_at: float
    """When it was launched, or when the batch before it ended"""
    others_seconds: float = 0.0
    """What it took to run others in its midst"""


class RunLoop:
    """Owns the model. One thread runs it."""

    def __init__(
        self,
        queue: GuardedQueue,
        runner: ModelRunner,
        coalescing: Coalescing,
        time_model: BatchTimeModel,
        *,
        answer: Callable[[Iterable[EngineRequest]], object],
        heart: Heart,
        running: RunningBatch,
        metrics: EngineMetrics,
    ) -> None:
        """`answer` is given requests that are done, or have failed. `running` is open."""
        self._queue = queue
        self._runner = runner
        self._coalescing = coalescing
        self._time_model = time_model
        self._answer = answer
        self._heart = heart
        self._running = running
        self._metrics = metrics
        self.counters = Counters()
        self._computed: BegunBatch | None = None
        """The batch that the model computes in this thread"""
        self._failure: Exception | None = None
        """Of what ran in its midst: the model cannot pass it on"""
        if runner.is_preemptible:
            runner.allow_preemption(Preemption(queue.preempt_at, self._run_small))

    def run(self) -> None:
        """Return once the queue is closed and what was begun is answered. Raises what says that the device is lost."""
        current: BegunBatch | None = None
        while (current := current or self._first()) is not None:
            following = self._begin_behind(current)
            self._computed = current
            outcome = current.run.outcome()
            self._computed = None
            if self._failure is not None:
                raise self._failure
            ended_at = time.monotonic()
            if following is None:
                self._running.end()
                self._heart.rest()
            else:
                following.started_at = ended_at
                self._running.begin(following.shared.request_ids)
                self._heart.work(following.predicted.milliseconds)
            self._finish(current, outcome, ended_at)
            current = following

    def _run_small(self) -> None:
        """Have small requests computed in the midst of a batch. Called by the model."""
        left, self._computed = self._computed, None
        if left is None or self._failure is not None:
            return
        began_at = time.monotonic()
        try:
            slices = self._queue.take_small()
            if slices and (small := self._begin(slices, left.shared)) is not None:
                self._finish(small, small.run.outcome(), time.monotonic())
        except Exception as error:
            self._failure = error
        self._running.begin(left.shared.request_ids)
        self._heart.work(left.predicted.milliseconds)
        left.others_seconds += time.monotonic() - began_at
        self._computed = left

    def _first(self) -> BegunBatch | None:
        """Wait for work and begin it; None once the queue is closed."""
        while slices := self._queue.take():
            if (begun := self._begin(slices)) is not None:
                return begun
        return None

    def _begin_behind(self, current: BegunBatch) -> BegunBatch | None:
        """The next batch, begun shortly before `current` ends; None where too little waits, or it ended before."""
        predicted_ms = current.predicted.milliseconds
        begin_at = current.started_at + (predicted_ms - min(MOST_LEAD_MS, LEAD_SHARE * predicted_ms)) / 1000
        while not current.run.is_done():
            seconds = begin_at - time.monotonic()
            if seconds <= 0:
                slices = self._queue.take_full()
                return self._begin(slices, current.shared) if slices else None
            time.sleep(min(seconds, POLL_SECONDS))
        return None

    def _begin(self, slices: list[BatchSlice[EngineRequest]], running: SharedBatch | None = None) -> BegunBatch | None:
        """Give the model what it has to compute of these, behind the batch that runs; None where that is nothing."""
        started_at = time.monotonic()
        shared = self._coalescing.share(slices, running)
        if shared.answered:
            self._answer(shared.answered)
        self._running.begin(shared.request_ids | (set() if running is None else running.request_ids))
        if not shared.slices:
            return None
        batch = pack(shared.slices)
        squares = num_squares(batch)
        predicted_ms = self._time_model.coefficients.predict(batch.num_tokens, squares)
        self._heart.work(predicted_ms)
        run = self._runner.begin(batch)
        return BegunBatch(shared, run, BatchTime(batch.num_tokens, squares, predicted_ms), started_at)

    def _finish(self, begun: BegunBatch, outcome: BatchOutcome, ended_at: float) -> None:
        """Answer, count and learn."""
        took, predicted = ended_at - begun.started_at - begun.others_seconds, begun.predicted
        self.counters.batches += 1
        self.counters.tokens += predicted.num_tokens
        self.counters.sequences += begun.shared.num_rows
        self.counters.compute_seconds += took
        self._coalescing.keep(begun.shared, outcome)  # first: who gets an answer finds it again at once
        self._answer(begun.shared.store(outcome, begun.started_at))
        self._metrics.batch_done(predicted.num_tokens, begun.shared.num_rows, took)
        if not outcome.was_halved:
            self._metrics.predicted(predicted.milliseconds / 1000, took)
            self._time_model.observe(predicted._replace(milliseconds=took * 1000))
