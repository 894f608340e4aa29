"""POST /v1/embeddings, and SGLang's native form of it, /encode."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from embedway.api.body_forms import EMBEDDING, ENCODE
from embedway.api.body_reader import read_body
from embedway.api.context import context_of
from embedway.api.deadline import head_deadline, soonest, within
from embedway.api.embedding_job import embed
from embedway.api.error_response import request_id_of
from embedway.api.pieces_response import response_of
from embedway.api.request_context import clock_of, is_safe_request_id, record_of
from embedway.api.schemas import EmbeddingRequest, EmbeddingResponse, EncodeRequest, json_request
from embedway.engine.client import EmbedResult
from embedway.errors import InvalidType, InvalidValue
from embedway.inputs.items import Items
from embedway.inputs.json_types import describe_json_type
from embedway.inputs.sequences import InputOptions
from embedway.outputs.encoding import embedding_response, encode_response
from embedway.outputs.vector_types import check_dimensions, check_output_dtype, finish

if TYPE_CHECKING:
    from embedway.api.served_models import ServedModel

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
    started_at = time.monotonic()
    context = context_of(request)
    deadline = head_deadline(request, started_at)
    read = await within(deadline, read_body(request, EMBEDDING))
    body = read.fields
    if (record := record_of(request)) is not None:
        record.model = body.model
    model, adapter = context.models.find(body.model)
    items, instruction = read.items()
    if instruction is not None and model.sequences.chat is None:
        raise InvalidValue(param="messages", problem="has a system message, for which this model has no place")
    dimensions = check_common_fields(request, model, body, items)
    output_dtype, normalize = body.output_dtype or "float32", body.normalize is not False
    check_output_dtype(output_dtype, dimension=dimensions or model.spec.dimension, normalize=normalize)
    truncate = body.truncate or model.settings.truncate
    options = InputOptions(body.input_type, body.prompt_name, instruction or body.prompt, truncate)

    deadline = soonest(deadline, body.timeout_ms, started_at)
    sequences, result = await embed(request, model, body, items, options, deadline=deadline, adapter=adapter)

    def write() -> list[bytes]:
        vectors = finish(result.vectors, dimensions=dimensions, normalize=normalize, output_dtype=output_dtype)
        return embedding_response(
            vectors,
            encoding_format=body.encoding_format or "float",
            model=body.model,
            prompt_tokens=sequences.num_tokens,
        )

    return await json_response(request, write, result)


@router.post("/encode", summary="Embed, as SGLang's native route", openapi_extra=json_request(EncodeRequest))
async def encode(request: Request) -> Response:
    started_at = time.monotonic()
    context = context_of(request)
    deadline = head_deadline(request, started_at)
    read = await within(deadline, read_body(request, ENCODE))
    body = read.fields
    if (record := record_of(request)) is not None:
        record.model = body.model
    model, adapter = context.models.find(context.models.named(None).name if body.model is None else body.model)
    items, _ = read.items()
    dimensions = check_common_fields(request, model, body, items)

    options = InputOptions(truncate=model.settings.truncate)
    deadline = soonest(deadline, body.timeout_ms, started_at)
    sequences, result = await embed(request, model, body, items, options, deadline=deadline, adapter=adapter)

    def write() -> list[bytes]:
        vectors = finish(result.vectors, dimensions=dimensions, normalize=True, output_dtype="float32")
        ids = body.rid if isinstance(body.rid, list) else [request_id_of(request)] * len(vectors)
        latency = time.monotonic() - started_at
        meta_infos = [
            {"id": id_, "finish_reason": {"type": "stop"}, "prompt_tokens": num_tokens, "e2e_latency": latency}
            for id_, num_tokens in zip(ids, sequences.lengths.tolist(), strict=True)
        ]
        return encode_response(vectors, meta_infos, is_single=items.is_single)

    return await json_response(request, write, result)


async def json_response(request: Request, write: Callable[[], list[bytes]], result: EmbedResult) -> Response:
    clock, size = clock_of(request), result.vectors.size
    clock.begin("encode")
    pieces = write() if size <= INLINE_VALUES else await context_of(request).threads.run(size, write)
    clock.end()
    return response_of(pieces)


def check_common_fields(
    request: Request, model: ServedModel, body: EmbeddingRequest | EncodeRequest, items: Items
) -> int | None:
    """Check `rid` and `dimensions`; the length to cut vectors to, None for the full one."""
    accept_request_id(request, body.rid, items)
    return check_dimensions(model.spec, body.dimensions, allow_any=model.settings.matryoshka)


def accept_request_id(request: Request, rid: object, items: Items) -> None:
    """Check `rid`; a single one becomes the request's id."""
    if rid is None:
        return
    ids = rid if isinstance(rid, list) else [rid]
    if isinstance(rid, list) and len(rid) != len(items):
        raise InvalidValue(param="rid", problem=f"has {len(rid)} ids for {len(items)} items")
    for i, value in enumerate(ids):
        param = f"rid[{i}]" if isinstance(rid, list) else "rid"
        if not isinstance(value, str):
            raise InvalidType(param=param, expected="a string", got=describe_json_type(value))
        if not is_safe_request_id(value):
            raise InvalidValue(
                param=param, problem="must be 1 to 128 characters, each a letter, a digit or one of ._:/+=@-"
            )
    if isinstance(rid, str):
        request.scope["state"]["request_id"] = rid


ROUTES = tuple(route for route in router.routes if isinstance(route, APIRoute))
"""Those that embed"""
