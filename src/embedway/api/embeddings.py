"""POST /v1/embeddings, and SGLang's native form of it, /encode."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from embedway.api.body_reader import read_body
from embedway.api.context import context_of
from embedway.api.deadline import head_deadline, soonest, within
from embedway.api.embedding_call import CALLS
from embedway.api.embedding_job import embed
from embedway.api.error_response import request_id_of
from embedway.api.pieces_response import response_of
from embedway.api.request_context import clock_of, record_of
from embedway.api.schemas import EmbeddingRequest, EmbeddingResponse, EncodeRequest, json_request

if TYPE_CHECKING:
    from embedway.api.body_forms import BodyForm
    from embedway.api.embedding_call import CallOf

router = APIRouter(tags=["Embeddings"])

INLINE_VALUES = 32_768
"""Answers of up to so many numbers are written on the event loop: a hop to a thread would take longer."""


@router.post(
    "/v1/embeddings",
    summary="Embed texts or token ids",
    openapi_extra=json_request(EmbeddingRequest),
    responses={200: {"model": EmbeddingResponse}},
)
async def create_embeddings(request: Request) -> Response:
    return await answer(request, *CALLS["/v1/embeddings"])


@router.post("/encode", summary="Embed, as SGLang's native route", openapi_extra=json_request(EncodeRequest))
async def encode(request: Request) -> Response:
    return await answer(request, *CALLS["/encode"])


async def answer(request: Request, form: BodyForm[Any], call_of: CallOf) -> Response:
    started_at = time.monotonic()
    context = context_of(request)
    deadline = head_deadline(request, started_at)
    read = await within(deadline, read_body(request, form))
    if (record := record_of(request)) is not None:
        record.model = read.fields.model
    call = call_of(context.models, read, started_at)
    if call.request_id is not None:
        request.scope["state"]["request_id"] = call.request_id
    deadline = soonest(deadline, call.body.timeout_ms, started_at)
    sequences, result = await embed(request, call, deadline)

    def write() -> list[bytes]:
        return call.write(sequences, result, request_id_of(request))

    clock, size = clock_of(request), result.vectors.size
    clock.begin("encode")
    pieces = write() if size <= INLINE_VALUES else await context.threads.run(size, write)
    clock.end()
    return response_of(pieces)


ROUTES = tuple(route for route in router.routes if isinstance(route, APIRoute))
"""Those that embed"""
