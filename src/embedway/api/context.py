"""What every route may use, made once when an API process starts."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from embedway.api.drain import Drain
from embedway.api.supervisor_orders import SupervisorOrders

if TYPE_CHECKING:
    from starlette.requests import Request

    from embedway.api.body_workers import BodyWorkers
    from embedway.api.served_models import ServedModels
    from embedway.api.waits import Waits
    from embedway.api.work_threads import WorkThreads
    from embedway.api_keys import ApiKeys
    from embedway.batches.service import Batches
    from embedway.config import Settings
    from embedway.observability.metrics import Metrics
    from embedway.observability.request_log import RequestLog
    from embedway.observability.request_tracer import RequestTracer


@dataclass(frozen=True, slots=True)
class ApiContext:
    settings: Settings
    keys: ApiKeys
    models: ServedModels
    metrics: Metrics
    waits: Waits
    threads: WorkThreads
    bodies: BodyWorkers
    batches: Batches | None = None
    """None: there is no --data-dir"""
    request_log: RequestLog | None = None
    tracer: RequestTracer | None = None
    """None: nobody wants traces"""
    drain: Drain = field(default_factory=Drain)
    orders: SupervisorOrders = field(default_factory=SupervisorOrders)
    started_at: int = field(default_factory=lambda: int(time.time()))
    """Unix seconds"""

    @property
    def keeps_records(self) -> bool:
        """Whether somebody wants to know of each request."""
        return self.request_log is not None or self.tracer is not None


def context_of(request: Request) -> ApiContext:
    return request.app.state.context
