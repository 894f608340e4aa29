"""POST /abort_request: an operator ends requests, as with SGLang. Their clients get RequestAborted."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from embedway.api.auth import require_admin
from embedway.api.body_forms import ABORT
from embedway.api.body_reader import read_fields
from embedway.api.context import context_of
from embedway.api.schemas import AbortRequest, json_request

router = APIRouter(tags=["Server"])


@router.post(
    "/abort_request", summary="End requests by their id, or all (admin key)", openapi_extra=json_request(AbortRequest)
)
async def abort_request(request: Request) -> Response:
    """200 also where nobody has the id: the request may have ended by itself."""
    context = context_of(request)
    require_admin(request.scope, context.keys)
    body = await read_fields(request, ABORT)
    if body.abort_all or body.rid:
        request_id = None if body.abort_all else body.rid
        context.waits.abort(request_id)
        for model in context.models:
            if model.engine.abort(request_id):  # each engine knows all API processes
                break
    return Response()
