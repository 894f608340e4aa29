"""POST /flush_cache: have the engines forget the vectors that they keep, as with SGLang."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from embedway.api.auth import require_admin
from embedway.api.context import context_of
from embedway.api.schemas import PLAIN

router = APIRouter(tags=["Server"])


@router.post("/flush_cache", summary="Forget all cached vectors (admin key)", responses=PLAIN)
async def flush_cache(request: Request, model: str | None = None) -> Response:
    """Of the model of this name; without one, of the first. Requests that run meanwhile get their vectors, which are
    kept again."""
    context = context_of(request)
    require_admin(request.scope, context.keys)
    served = context.models.named(model)
    served.check_available()
    await served.engine.flush_cache()
    return PlainTextResponse("Cache flushed.\n")
