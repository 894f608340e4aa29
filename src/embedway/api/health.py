"""Is it alive, is it ready, does it work: /livez, /readyz, /health, /health_generate, and /metrics."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from embedway.api.context import ApiContext, context_of
from embedway.api.deadline import head_deadline
from embedway.api.waits import waited_for
from embedway.engine.client import Terms
from embedway.errors import EngineNotReady
from embedway.inputs.items import parse_input
from embedway.inputs.sequences import InputOptions
from embedway.observability.exposition import CONTENT_TYPE

router = APIRouter(tags=["Health"])


def check_ready(context: ApiContext) -> None:
    """Raise EngineNotReady unless a replica answers."""
    if not context.engine.is_ready:
        raise EngineNotReady(state="no engine answers yet")


@router.head("/livez", include_in_schema=False)
@router.get("/livez", summary="This process answers")
async def livez() -> dict[str, str]:
    return {"status": "alive"}


@router.head("/readyz", include_in_schema=False)
@router.head("/health", include_in_schema=False)
@router.get("/readyz", summary="Embeddings are served now")
@router.get("/health", summary="The same as /readyz")
async def readyz(request: Request) -> dict[str, str]:
    check_ready(context_of(request))
    return {"status": "ready"}


@router.get("/health_generate", summary="Embed a real text")
async def health_generate(request: Request) -> dict[str, str]:
    context, deadline = context_of(request), head_deadline(request, time.monotonic())
    sequences = context.sequences.make(parse_input("ready?", max_items=1), InputOptions(truncate="end"))
    await waited_for(request, context.engine.embed(sequences, Terms(fresh=True)), deadline)
    return {"status": "ready"}


@router.get("/metrics", summary="Metrics in Prometheus' text format", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    context = context_of(request)
    return Response(context.metrics.render(context.engine.statuses()), headers={"Content-Type": CONTENT_TYPE})
