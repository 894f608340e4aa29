"""/tokenize and /detokenize: the model's own tokenizer, to count tokens or to make ids for `input`."""

from __future__ import annotations

import asyncio

import orjson
from fastapi import APIRouter, Request, Response

from embedway.api.context import context_of
from embedway.api.schemas import DetokenizeRequest, TokenizeRequest, json_request, read_body
from embedway.errors import InvalidType
from embedway.inputs.items import parse_input

router = APIRouter(tags=["Tokenizer"])


@router.post("/tokenize", summary="Texts to token ids", openapi_extra=json_request(TokenizeRequest))
@router.post("/v1/tokenize", include_in_schema=False)
async def tokenize(request: Request) -> Response:
    context = context_of(request)
    body = await read_body(request, TokenizeRequest)
    if body.model is not None:
        context.model.check(body.model)
    items = parse_input(body.prompt, max_items=context.settings.max_items, field="prompt")
    if not items.is_text:
        raise InvalidType(param="prompt", expected="a string or an array of strings", got="token ids")
    ids = await asyncio.to_thread(context.sequences.tokens_of, items, add_special_tokens=body.add_special_tokens)
    lists = [item.tolist() for item in ids]
    answer = {
        "tokens": lists[0] if items.is_single else lists,
        "count": len(lists[0]) if items.is_single else [len(item) for item in lists],
        "max_model_len": context.model.spec.max_length,
    }
    return Response(orjson.dumps(answer), media_type="application/json")


@router.post("/detokenize", summary="Token ids to texts", openapi_extra=json_request(DetokenizeRequest))
@router.post("/v1/detokenize", include_in_schema=False)
async def detokenize(request: Request) -> Response:
    context = context_of(request)
    body = await read_body(request, DetokenizeRequest)
    if body.model is not None:
        context.model.check(body.model)
    items = parse_input(body.tokens, max_items=context.settings.max_items, field="tokens")
    if items.is_text:
        raise InvalidType(param="tokens", expected="token ids or an array of lists of them", got="text")
    texts = await asyncio.to_thread(context.sequences.texts_of, items, skip_special_tokens=body.skip_special_tokens)
    return Response(orjson.dumps({"text": texts[0] if items.is_single else texts}), media_type="application/json")
