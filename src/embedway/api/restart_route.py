"""POST /restart_engines: the engines are replaced one by one, as on a SIGHUP, without a request being lost."""

from __future__ import annotations

from fastapi import APIRouter, Request

from embedway.api.auth import require_admin
from embedway.api.context import context_of

router = APIRouter(tags=["Server"])


@router.post("/restart_engines", summary="Replace all engines, one by one (admin key)", status_code=202)
async def restart_engines(request: Request) -> dict[str, str | int]:
    """202: it has begun. /server_info shows the engines' process ids, which change as they are replaced."""
    context = context_of(request)
    require_admin(request.scope, context.keys)
    await context.restarts.begin()
    return {"status": "restarting", "engines": context.settings.replicas}
