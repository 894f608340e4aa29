"""Settings → what every route of an API process may use, with the threads and processes that it needs."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import TYPE_CHECKING

from embedway.api.body_workers import BodyWorkers
from embedway.api.context import ApiContext
from embedway.api.supervisor_orders import SupervisorOrders
from embedway.api.work_threads import WorkThreads
from embedway.batches.service import Batches
from embedway.observability.request_log import RequestLog

if TYPE_CHECKING:
    from embedway.api.served_models import ServedModels
    from embedway.api.waits import Waits
    from embedway.api_keys import ApiKeys
    from embedway.config import Settings
    from embedway.observability.metrics import Metrics
    from embedway.observability.request_tracer import RequestTracer


@contextlib.contextmanager
def api_context(
    settings: Settings,
    keys: ApiKeys,
    models: ServedModels,
    *,
    metrics: Metrics,
    waits: Waits,
    tracer: RequestTracer | None = None,
    orders: SupervisorOrders | None = None,
) -> Generator[ApiContext]:
    """`orders` is None where there is no supervisor. What is given is not closed at the end, what is made here is."""
    threads, bodies = WorkThreads(), BodyWorkers()
    batches = None if settings.data_dir is None else Batches.of(settings.data_dir, settings)
    request_log = RequestLog(text_characters=settings.log_request_texts) if settings.log_requests else None
    try:
        yield ApiContext(
            settings=settings,
            keys=keys,
            models=models,
            metrics=metrics,
            waits=waits,
            threads=threads,
            bodies=bodies,
            batches=batches,
            request_log=request_log,
            tracer=tracer,
            orders=orders or SupervisorOrders(),
        )
    finally:
        threads.close()
        bodies.close()
        if batches is not None:
            batches.close()
        if request_log is not None:
            request_log.close()
