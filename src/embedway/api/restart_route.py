"""POST /restart_engines: a model's engines are replaced one by one, as on a SIGHUP, without a request being lost."""

from __future__ import annotations

from fastapi import APIRouter, Request

from embedway.api.auth import require_admin
from embedway.api.context import context_of

router = APIRouter(tags=["Server"])


@router.post("/restart_engines", summary="Replace a model's engines, one by one (admin key)", status_code=202)
async def restart_engines(request: Request, model: str | None = None) -> dict[str, str | int]:
    """Of the model of this name; without one, of the first. Of a model that is unavailable they are started anew.

    202: it has begun. /server_info shows the engines' process ids, which change as they are replaced."""
    context = context_of(request)
    require_admin(request.scope, context.keys)
    served = context.models.named(model)
    await context.orders.restart(served.name)
    return {"status": "restarting", "engines": served.settings.replicas}
