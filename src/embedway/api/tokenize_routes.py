"""/tokenize and /detokenize: the model's own tokenizer, to count tokens or to make ids for `input`."""

from __future__ import annotations

import time

import orjson
from fastapi import APIRouter, Request, Response

from embedway.api.body_forms import DETOKENIZE, TOKENIZE
from embedway.api.body_reader import read_body
from embedway.api.context import context_of
from embedway.api.deadline import head_deadline, within
from embedway.api.pieces_response import response_of
from embedway.api.request_context import clock_of
from embedway.api.schemas import DetokenizeRequest, TokenizeRequest, json_request
from embedway.api.waits import waited_for
from embedway.outputs.encoding import token_list, token_lists

router = APIRouter(tags=["Tokenizer"])


@router.post("/tokenize", summary="Texts to token ids", openapi_extra=json_request(TokenizeRequest))
@router.post("/v1/tokenize", include_in_schema=False)
async def tokenize(request: Request) -> Response:
    context, deadline = context_of(request), head_deadline(request, time.monotonic())
    read = await within(deadline, read_body(request, TOKENIZE))
    body = read.fields
    model = context.models.named(body.model)
    items, _ = read.items()
    clock_of(request).begin("tokenize")

    def write() -> list[bytes]:
        ids = model.sequences.tokens_of(items, add_special_tokens=body.add_special_tokens)
        tokens = token_list(ids[0]) if items.is_single else token_lists(ids)
        count = len(ids[0]) if items.is_single else [len(item) for item in ids]
        rest = orjson.dumps({"count": count, "max_model_len": model.spec.max_length})
        return [b'{"tokens":', *tokens, b"," + rest[1:]]

    return response_of(await waited_for(request, context.threads.run(items.size, write), deadline))


@router.post("/detokenize", summary="Token ids to texts", openapi_extra=json_request(DetokenizeRequest))
@router.post("/v1/detokenize", include_in_schema=False)
async def detokenize(request: Request) -> Response:
    context, deadline = context_of(request), head_deadline(request, time.monotonic())
    read = await within(deadline, read_body(request, DETOKENIZE))
    body = read.fields
    model = context.models.named(body.model)
    items, _ = read.items()
    clock_of(request).begin("tokenize")

    def write() -> list[bytes]:
        texts = model.sequences.texts_of(items, skip_special_tokens=body.skip_special_tokens)
        return [orjson.dumps({"text": texts[0] if items.is_single else texts})]

    return response_of(await waited_for(request, context.threads.run(items.size, write), deadline))
