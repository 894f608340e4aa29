"""/server_info: what whoever is to help asks first. No secrets; `SECURITY.md` says who may read it."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import asdict
from typing import Any

import msgspec
from fastapi import APIRouter, Request

from embedway.api.admission import Admission
from embedway.api.context import context_of
from embedway.api.served_models import ServedModel
from embedway.config import KEY_SETTINGS
from embedway.observability.host_facts import host_facts
from embedway.observability.processes import server_processes
from embedway.observability.restart_counter import restarts_in
from embedway.version import __version__

router = APIRouter(tags=["Models"])


@router.get("/server_info", summary="Settings, versions, processes and the state of the engines")
@router.get("/get_server_info", include_in_schema=False)
async def server_info(request: Request, model: str | None = None) -> dict[str, Any]:
    """`model`, `settings`, `adapters`, `engines` and `admission` are those of the model of this name; without one, of
    the first. `models` has all.
    """
    context = context_of(request)
    served = context.models.named(model)
    return {
        "version": __version__,
        **await asyncio.to_thread(host_facts),
        "uptime_seconds": round(time.time() - context.started_at, 1),
        "model": _model(served),
        "models": [_summary(one) for one in context.models],
        "api_key_required": bool(context.keys.users),
        "settings": served.settings.model_dump(mode="json", exclude=KEY_SETTINGS),
        "adapters": msgspec.to_builtins(list(served.adapters.all().values())),
        "engines": [
            None if status is None else msgspec.to_builtins(msgspec.structs.asdict(status))
            for status in served.engine.statuses()
        ],
        "admission": _admission(served.admission),
        "processes": [asdict(process) for process in server_processes()],
        "restarts": restarts_in(context.metrics.totals()),
    }


def _summary(model: ServedModel) -> dict[str, Any]:
    engines = range(model.first_engine, model.first_engine + len(model.engine.statuses()))
    return {
        "names": list(model.names),
        "status": model.status,
        "failure": model.failure,
        "engines": [f"engine {number}" for number in engines],
    }


def _model(model: ServedModel) -> dict[str, Any]:
    spec = model.spec
    return {
        "name": spec.name,
        "revision": spec.revision,
        "type": spec.model_type,
        "pooling": list(spec.pooling),
        "dimension": spec.dimension,
        "max_length": spec.max_length,
    }


def _admission(admission: Admission) -> dict[str, Any]:
    """Limits and books of the API process that answers; null for no limit, and for what is not known."""

    def finite(value: float) -> float | None:
        return round(value) if math.isfinite(value) else None

    return {
        "max_queued_tokens": finite(admission.max_tokens),
        "max_queued_requests": finite(admission.limits.requests),
        "tokens_per_second": finite(admission.tokens_per_second),
        "interactive": asdict(admission.interactive),
        "bulk": asdict(admission.bulk),
    }
