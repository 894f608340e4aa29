"""Settings → what every route of an API process may use, with the threads and processes that it needs."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import TYPE_CHECKING

from embedway.api.admission import Admission, Limits
from embedway.api.body_forms import BodyRules
from embedway.api.body_workers import BodyWorkers
from embedway.api.context import ApiContext
from embedway.api.engine_restarts import EngineRestarts
from embedway.api.served_models import ServedModel
from embedway.api.work_threads import WorkThreads
from embedway.batches.service import Batches
from embedway.observability.request_log import RequestLog

if TYPE_CHECKING:
    from embedway.api.adapter_registry import AdapterRegistry
    from embedway.api.waits import Waits
    from embedway.api_keys import ApiKeys
    from embedway.config import Settings
    from embedway.engine.client import EngineClient
    from embedway.inputs.sequences import SequenceMaker
    from embedway.media.reader import MediaReader
    from embedway.observability.metrics import Metrics
    from embedway.observability.request_tracer import RequestTracer


@contextlib.contextmanager
def api_context(
    settings: Settings,
    keys: ApiKeys,
    sequences: SequenceMaker,
    *,
    engine: EngineClient,
    adapters: AdapterRegistry,
    metrics: Metrics,
    waits: Waits,
    media: MediaReader | None = None,
    tracer: RequestTracer | None = None,
    restarts: EngineRestarts | None = None,
) -> Generator[ApiContext]:
    """`restarts` is None where there is no supervisor. What is given is not closed at the end, what is made here is."""
    threads, bodies = WorkThreads(), BodyWorkers(BodyRules.of(settings, sequences))
    batches = None if settings.data_dir is None else Batches.of(settings.data_dir, settings)
    request_log = RequestLog(text_characters=settings.log_request_texts) if settings.log_requests else None
    try:
        yield ApiContext(
            settings=settings,
            keys=keys,
            model=ServedModel.of(sequences.spec, settings),
            sequences=sequences,
            engine=engine,
            adapters=adapters,
            metrics=metrics,
            admission=Admission(Limits.of(settings), engine.tokens_per_second, metrics.refused),
            waits=waits,
            threads=threads,
            bodies=bodies,
            media=media,
            batches=batches,
            request_log=request_log,
            tracer=tracer,
            restarts=restarts or EngineRestarts(),
        )
    finally:
        threads.close()
        bodies.close()
        if batches is not None:
            batches.close()
        if request_log is not None:
            request_log.close()
