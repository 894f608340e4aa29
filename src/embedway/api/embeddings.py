"""POST /v1/embeddings, and SGLang's native form of it, /encode."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from embedway.api.context import context_of
from embedway.api.disconnect import unless_disconnected
from embedway.api.error_response import request_id_of
from embedway.api.request_context import is_safe_request_id
from embedway.api.schemas import EmbeddingRequest, EmbeddingResponse, EncodeRequest, json_request, read_body
from embedway.engine.client import EmbedResult
from embedway.errors import AdaptersNotSupported, InvalidType, InvalidValue, MediaNotSupported, MissingField
from embedway.inputs.items import Items, describe_json_type, parse_input
from embedway.inputs.sequences import InputOptions
from embedway.outputs.encoding import embedding_response
from embedway.outputs.vector_types import check_dimensions, check_output_dtype, finish
from embedway.packed_sequences import PackedSequences

router = APIRouter(tags=["Embeddings"])

INLINE_CHARACTERS = 4096
"""Requests up to this size are tokenized and written on the event loop: a hop to a thread would take longer."""
INLINE_VALUES = 32_768
"""Likewise for the numbers of an answer."""


@router.post(
    "/v1/embeddings",
    summary="Embed texts or token ids",
    openapi_extra=json_request(EmbeddingRequest),
    responses={200: {"model": EmbeddingResponse}},
)
async def create_embeddings(request: Request) -> Response:
    context = context_of(request)
    body = await read_body(request, EmbeddingRequest)
    context.model.check(body.model)
    items = parse_input(body.input, max_items=context.settings.max_items)
    dimensions = check_common_fields(request, body, items)
    output_dtype, normalize = body.output_dtype or "float32", body.normalize is not False
    check_output_dtype(output_dtype, dimension=dimensions or context.model.spec.dimension, normalize=normalize)
    options = InputOptions(body.input_type, body.prompt_name, body.prompt, body.truncate or context.settings.truncate)

    sequences, result = await embed(request, items, options, priority=body.priority or 0)

    def write() -> bytes:
        vectors = finish(result.vectors, dimensions=dimensions, normalize=normalize, output_dtype=output_dtype)
        return embedding_response(
            vectors,
            encoding_format=body.encoding_format or "float",
            model=body.model,
            prompt_tokens=sequences.num_tokens,
        )

    return await json_response(write, result)


@router.post("/encode", summary="Embed, as SGLang's native route", openapi_extra=json_request(EncodeRequest))
async def encode(request: Request) -> Response:
    started_at = time.perf_counter()
    context = context_of(request)
    body = await read_body(request, EncodeRequest)
    field, value = the_one_given(body)
    items = parse_input(value, max_items=context.settings.max_items, field=field)
    dimensions = check_common_fields(request, body, items)

    options = InputOptions(truncate=context.settings.truncate)
    sequences, result = await embed(request, items, options, priority=body.priority or 0)

    def write() -> bytes:
        vectors = finish(result.vectors, dimensions=dimensions, normalize=True, output_dtype="float32")
        ids = body.rid if isinstance(body.rid, list) else [request_id_of(request)] * len(vectors)
        latency = time.perf_counter() - started_at
        answers = [
            {
                "embedding": vector,
                "meta_info": {
                    "id": request_id,
                    "finish_reason": {"type": "stop"},
                    "prompt_tokens": num_tokens,
                    "e2e_latency": latency,
                },
            }
            for vector, request_id, num_tokens in zip(vectors, ids, sequences.lengths.tolist(), strict=True)
        ]
        return orjson.dumps(answers[0] if items.is_single else answers, option=orjson.OPT_SERIALIZE_NUMPY)

    return await json_response(write, result)


async def embed(
    request: Request, items: Items, options: InputOptions, *, priority: int
) -> tuple[PackedSequences, EmbedResult]:
    """Items → sequences, within the limits of the request → vectors, as long as the client waits."""
    context = context_of(request)
    make = context.sequences.make
    is_small = context.sequences.work(items, options) <= INLINE_CHARACTERS
    sequences = make(items, options) if is_small else await asyncio.to_thread(make, items, options)
    answer = context.engine.submit(sequences, priority=priority, param=items.param)
    result = await unless_disconnected(request, answer)
    context.metrics.embedded(sequences, result)
    return sequences, result


async def json_response(write: Callable[[], bytes], result: EmbedResult) -> Response:
    content = write() if result.vectors.size <= INLINE_VALUES else await asyncio.to_thread(write)
    return Response(content, media_type="application/json")


def check_common_fields(request: Request, body: EmbeddingRequest | EncodeRequest, items: Items) -> int | None:
    """Check `rid`, `lora_path` and `dimensions`; the length to cut vectors to, None for the full one."""
    context = context_of(request)
    accept_request_id(request, body.rid, items)
    refuse_adapters(body.lora_path, items)
    return check_dimensions(context.model.spec, body.dimensions, allow_any=context.settings.matryoshka)


_MEDIA = {"image_data": "image", "video_data": "video", "audio_data": "audio"}


def the_one_given(body: EncodeRequest) -> tuple[str, Any]:
    """/encode takes `text` or `input_ids`: the name and the value of the one that was given."""
    for media_field, kind in _MEDIA.items():
        if getattr(body, media_field) is not None:
            raise MediaNotSupported(param=media_field, kind=kind)
    if body.text is not None and body.input_ids is not None:
        raise InvalidValue(param="input_ids", problem="is given together with 'text': send one of them")
    if body.text is None and body.input_ids is None:
        raise MissingField(param="text")
    return ("text", body.text) if body.text is not None else ("input_ids", body.input_ids)


def accept_request_id(request: Request, rid: object, items: Items) -> None:
    """Check `rid`; a single one becomes the request's id."""
    if rid is None:
        return
    ids = rid if isinstance(rid, list) else [rid]
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
    elif len(ids) != len(items):
        raise InvalidValue(param="rid", problem=f"has {len(ids)} ids for {len(items)} items")


def refuse_adapters(lora_path: object, items: Items) -> None:
    """Adapters are not served: only null, or one null an item, is fine."""
    if lora_path is None:
        return
    names = lora_path if isinstance(lora_path, list) else [lora_path]
    for i, name in enumerate(names):
        param = f"lora_path[{i}]" if isinstance(lora_path, list) else "lora_path"
        if isinstance(name, str):
            raise AdaptersNotSupported(param=param, adapter=name)
        if name is not None or not isinstance(lora_path, list):
            raise InvalidType(param=param, expected="a string or null", got=describe_json_type(name))
    if len(names) != len(items):
        raise InvalidValue(param="lora_path", problem=f"has {len(names)} entries for {len(items)} items")
