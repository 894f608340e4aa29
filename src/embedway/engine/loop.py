"""The engine process: receive → schedule → run → reply.

Two threads. The I/O thread (`io_thread.py`) owns the socket and the table of adapters: it queues requests, cancels
them, answers pings at any moment and sends replies. The run loop owns the model: it takes a batch, runs it and hands
the answers over. A third thread is there while an adapter is loaded.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from embedway.child_process import BEAT_SECONDS, RETIRE, ParentLink
from embedway.engine import wire
from embedway.engine.adapter_loader import AdapterLoader, AdapterOrder, ReadAdapter
from embedway.engine.adapter_loads import AdapterLoads
from embedway.engine.adapter_store import AdapterStore
from embedway.engine.agreed_dtype import load_agreed
from embedway.engine.batch_time_model import BatchTimeModel
from embedway.engine.coalescing import Coalescing
from embedway.engine.engine_request import EngineRequest, answers_by_client
from embedway.engine.fair_share import FairShareQueue
from embedway.engine.guarded_queue import GuardedQueue
from embedway.engine.heart import Heart
from embedway.engine.io_thread import IoThread
from embedway.engine.model_runner import ModelRunner
from embedway.engine.reception import EngineReception
from embedway.engine.run_loop import RunLoop
from embedway.engine.running_batch import RunningBatch, path_of
from embedway.engine.scheduler import TARGET_BATCH_MS, Scheduler
from embedway.engine.vector_cache import VectorCache
from embedway.engine.warm_up import Samples, warm_up
from embedway.engine.wire import EngineConfig
from embedway.errors import AdapterRefused, InvalidSetting, StartupError
from embedway.models.adapter_checkpoint import read_adapter
from embedway.models.interface import EmbeddingModel
from embedway.observability.engine_metrics import EngineMetrics
from embedway.observability.logs import configure_logging

logger = logging.getLogger("embedway.engine")


@dataclass(frozen=True, slots=True)
class EngineIdentity:
    """What never changes while an engine lives."""

    model: EmbeddingModel
    threads: int
    load_seconds: float
    read_adapter: ReadAdapter = read_adapter
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
        adapter_loader: AdapterLoader | None = None,
        adapter_store: AdapterStore | None = None,
        cache: VectorCache | None = None,
        metrics: EngineMetrics | None = None,
        shares_by_key: bool = False,
        on_beat: Callable[[], object] = lambda: None,
    ) -> None:
        """`on_beat` is called in the I/O thread every BEAT_SECONDS while `run` makes progress.

        Without a cache every sequence is computed.
        """
        self._identity = identity
        self._target_batch_ms = target_batch_ms
        self._time_model = time_model or BatchTimeModel()
        runner = ModelRunner(identity.model)
        self._queue = GuardedQueue(
            Scheduler(
                max_batch_tokens=max_batch_tokens,
                target_ms=target_batch_ms,
                time_model=self._time_model,
                queue=FairShareQueue() if shares_by_key else None,
                is_preemptible=runner.is_preemptible,
            )
        )
        self._coalescing = Coalescing(VectorCache(0, identity.model.dimension) if cache is None else cache)
        self._metrics = metrics or EngineMetrics()
        # twice: a batch may be launched while another runs, or run in the midst of another
        self._running = RunningBatch(path_of(address, identity.instance), 2 * max_batch_tokens)
        self._heart = Heart(on_beat)
        self._io = IoThread(address, on_error=self.stop)
        self._loop = RunLoop(
            self._queue,
            runner,
            self._coalescing,
            self._time_model,
            answer=self._answer,
            heart=self._heart,
            running=self._running,
            metrics=self._metrics,
        )
        self._adapter_store = adapter_store or AdapterStore()
        loader = adapter_loader or AdapterLoader(identity.model, read=identity.read_adapter)
        self._adapter_loads = AdapterLoads(self._adapter_store, loader, wake=self._io.wake)

    def run(self, on_ready: Callable[[], object] = lambda: None) -> None:
        """Serve until `stop`. `on_ready` is called once the socket is bound.

        Raises what ended the I/O thread: an engine that can answer nobody must end, and be started anew.
        """
        reception = EngineReception(self._queue, self._adapter_loads, self._coalescing, self._status)
        if self._io.start(reception):
            self._running.open()
            on_ready()
            self._io.repeat(BEAT_SECONDS, self._heart.beat)
        self._loop.run()
        self._io.join()
        self._running.close()

    def stop(self) -> None:
        """End `run` after the batch it is at; what waits in the queue is dropped. Callable from any thread."""
        self._queue.close()

    def retire(self) -> None:
        """End `run` once every client has its answers and has gone to the successor. Callable from any thread."""
        self._io.dismiss(wire.encode(wire.Retiring()), on_left=self.stop)

    def _answer(self, requests: Iterable[EngineRequest]) -> None:
        for client, frame, array in answers_by_client(requests, self._identity.model.dimension, time.monotonic()):
            self._io.send(client, frame, array)

    def _status(self) -> wire.Status:
        queued_requests, queued_tokens = self._queue.depth()
        counters = self._loop.counters
        coefficients, errors = self._time_model.coefficients, self._time_model.errors()
        status = wire.Status(
            instance=self._identity.instance,
            pid=os.getpid(),
            dtype=self._identity.model.dtype,
            device=self._identity.model.device,
            dimension=self._identity.model.dimension,
            threads=self._identity.threads,
            load_seconds=self._identity.load_seconds,
            queued_requests=queued_requests,
            queued_tokens=queued_tokens,
            parked_requests=self._adapter_loads.num_parked,
            expired_requests=self._queue.num_expired,
            batches=counters.batches,
            tokens=counters.tokens,
            sequences=counters.sequences,
            cache_hits=self._coalescing.num_hits,
            coalesced_sequences=self._coalescing.num_coalesced,
            cached_vectors=len(self._coalescing.cache),
            cache_bytes=self._coalescing.cache.num_bytes,
            compute_seconds=counters.compute_seconds,
            mean_batch_tokens=round(counters.tokens / max(1, counters.batches), 1),
            target_batch_ms=self._target_batch_ms,
            batch_fixed_ms=coefficients.fixed,
            batch_ms_per_token=coefficients.per_token,
            batch_ms_per_square=coefficients.per_square,
            batch_time_error_median=errors.median,
            batch_time_error_p90=errors.p90,
            facts=self._identity.model.facts,
            adapters=self._adapter_store.refs(),
        )
        self._metrics.publish(status)
        return status


def load(config: EngineConfig) -> EngineIdentity:
    """Import the model's libraries and load its weights. Raises UnsupportedCheckpoint or InvalidSetting."""
    began = time.monotonic()
    from embedway.models.architectures import load_model
    from embedway.models.cpu_threads import available_cores

    threads = config.threads or available_cores()
    model = load_agreed(
        Path(config.address).parent / "dtype",
        config.dtype,
        lambda dtype: load_model(config.spec, dtype=dtype, device=config.device, threads=threads),
    )
    return EngineIdentity(model, threads=threads, load_seconds=time.monotonic() - began)


def main(load: Callable[[EngineConfig], EngineIdentity] = load) -> None:
    """The engine process's entry. `load` is the seam at which tests put a model of theirs."""
    # A service manager may signal every process at once: the supervisor says when an engine has to go.
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, signal.SIG_IGN)
    link = ParentLink()
    config = link.read_config(EngineConfig)
    configure_logging(config.log_level, process="engine", log_format=config.log_format)
    # The API processes have drained by the time that the supervisor lets go: there is nothing to finish.
    link.on_parent_gone(lambda: os._exit(0))
    try:
        identity = load(config)
        loader = AdapterLoader(
            identity.model, config.max_lora_rank, download_dir=config.download_dir, read=identity.read_adapter
        )
        store = store_at_start(config, loader)
        cache = VectorCache.of_setting(config.cache_mb, identity.model.dimension)
    except StartupError as error:
        link.fail(error)
    else:
        engine = Engine(
            identity,
            address=config.address,
            max_batch_tokens=config.max_batch_tokens,
            target_batch_ms=config.target_batch_ms or TARGET_BATCH_MS[identity.model.device.partition(":")[0]],
            time_model=warm_up(identity.model, Samples.of(config.spec)),
            adapter_loader=loader,
            adapter_store=store,
            cache=cache,
            metrics=EngineMetrics(Path(config.metrics_folder) if config.metrics_folder else None, config.replica),
            shares_by_key=config.shares_by_key,
            on_beat=link.beat,
        )
        link.on_word(lambda word: engine.retire() if word == RETIRE else None)
        engine.run(on_ready=lambda: link.announce_ready(facts_of(identity)))


def store_at_start(config: EngineConfig, loader: AdapterLoader) -> AdapterStore:
    """The store with the adapters of `--lora-paths`. Raises InvalidSetting where one is refused or has no room."""
    limit = config.max_loaded_loras
    if limit is not None and len(config.adapters) > limit:
        problem = f"there are {len(config.adapters)} adapters, but {limit} may be loaded at once (--max-loaded-loras)"
        raise InvalidSetting(setting="--lora-paths", problem=problem)
    store = AdapterStore(limit)
    try:
        for adapter in config.adapters:
            store.add(loader.load(AdapterOrder(adapter), store.prepared()))
    except AdapterRefused as refused:
        raise InvalidSetting(setting="--lora-paths", problem=refused.message) from refused
    return store


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
