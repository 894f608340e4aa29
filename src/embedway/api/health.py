"""Is it alive, is it ready, does it work: /livez, /readyz, /health, /health_generate, and /metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from embedway.api.context import ApiContext, context_of
from embedway.errors import EngineNotReady
from embedway.inputs.items import parse_input
from embedway.inputs.sequences import InputOptions
from embedway.observability.metrics import CONTENT_TYPE

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
    context = context_of(request)
    sequences = context.sequences.make(parse_input("ready?", max_items=1), InputOptions(truncate="end"))
    await context.engine.embed(sequences)
    return {"status": "ready"}


@router.get("/metrics", summary="Metrics in Prometheus' text format", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    context = context_of(request)
    return Response(context.metrics.render(context.engine.statuses()), headers={"Content-Type": CONTENT_TYPE})
