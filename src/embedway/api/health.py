"""Is it alive, is it ready, does it work: /livez, /readyz, /health, /health_generate, and /metrics."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from embedway.api.context import context_of
from embedway.api.deadline import head_deadline
from embedway.api.served_models import ServedModel, ServedModels
from embedway.api.waits import waited_for
from embedway.engine.client import Terms
from embedway.errors import EngineNotReady, ModelNotFound
from embedway.inputs.items import parse_input
from embedway.inputs.sequences import InputOptions
from embedway.observability.engine_metrics import Engine
from embedway.observability.exposition import CONTENT_TYPE

router = APIRouter(tags=["Health"])


@router.head("/livez", include_in_schema=False)
@router.get("/livez", summary="This process answers")
async def livez() -> dict[str, str]:
    return {"status": "alive"}


@router.head("/readyz", include_in_schema=False)
@router.head("/health", include_in_schema=False)
@router.get("/readyz", summary="Embeddings are served now")
@router.get("/health", summary="The same as /readyz")
async def readyz(request: Request, model: str | None = None) -> dict[str, Any]:
    """Of several models one that answers is enough: the others' requests fail, and none of its own. `status` is then
    `degraded`, and `models` says which do not, unless the server has keys. With `model`, that one has to answer.
    """
    context = context_of(request)
    asked = [*context.models] if model is None else [_probed(context.models, model)]
    if not any(one.status == "ready" for one in asked):
        raise EngineNotReady(state="no engine answers yet")
    if all(one.status == "ready" for one in asked):
        return {"status": "ready"}
    if context.keys.users:  # a probe needs none of them, and names are for those who have one
        return {"status": "degraded"}
    return {"status": "degraded", "models": {one.name: one.status for one in asked}}


def _probed(models: ServedModels, name: str) -> ServedModel:
    """Raises ModelNotFound, which does not say what there is."""
    try:
        return models.named(name)
    except ModelNotFound as error:
        raise ModelNotFound(param="model", name=name, served="see /v1/models") from error


@router.get("/health_generate", summary="Embed a real text")
async def health_generate(request: Request, model: str | None = None) -> dict[str, str]:
    """With the model of this name; without one, with the first."""
    served, deadline = context_of(request).models.named(model), head_deadline(request, time.monotonic())
    served.check_available()
    sequences = served.sequences.make(parse_input("ready?", max_items=1), InputOptions(truncate="end"))
    await waited_for(request, served.engine.embed(sequences, Terms(fresh=True)), deadline)
    return {"status": "ready"}


@router.get("/metrics", summary="Metrics in Prometheus' text format", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    context = context_of(request)
    engines = [
        Engine(number, model.name, status)
        for model in context.models
        for number, status in enumerate(model.engine.statuses(), model.first_engine)
    ]
    return Response(context.metrics.render(engines), headers={"Content-Type": CONTENT_TYPE})
