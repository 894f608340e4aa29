"""A request's body → its fields and items: on the event loop where it is small, and beside it where it is not."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from embedway.api.body_forms import ReadBody
from embedway.api.body_limit import SMALL_BODY
from embedway.api.body_parsing import BodyT, parse_body
from embedway.api.context import context_of
from embedway.api.headers import header
from embedway.api.request_context import clock_of
from embedway.errors import InvalidValue, UnsupportedMediaType

if TYPE_CHECKING:
    from fastapi import Request

    from embedway.api.body_forms import BodyForm, BodyRules


async def read_fields(request: Request, form: BodyForm[BodyT]) -> BodyT:
    """The body of a request without items. Raises what `read_body` does."""
    read = await read_body(request, form)
    clock_of(request).end()
    return read.fields


async def read_small_fields(request: Request, form: BodyForm[BodyT]) -> BodyT:
    """The same, where no sensible body is large. Raises what `read_body` does."""
    require_json(request)
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > SMALL_BODY:
            raise InvalidValue(param="body", problem=f"has more than {SMALL_BODY} bytes, the most that are read here")
    return parse_body(raw, form.kind, max_items=context_of(request).settings.max_items)


async def read_body(request: Request, form: BodyForm[BodyT]) -> ReadBody[BodyT]:
    """Read and check a request's JSON body. To read its items belongs to the same stage, which is the caller's to end.

    Raises UnsupportedMediaType, InvalidJson, MissingField, InvalidType or InvalidValue.
    """
    require_json(request)
    chunks = [chunk async for chunk in request.stream()]  # `body()` would keep it as long as the request
    clock_of(request).begin("parse")
    context = context_of(request)
    rules = context.models.rules
    if sum(map(len, chunks)) <= SMALL_BODY:  # in a millisecond: a worker's answer would take longer
        return parsed_here(b"".join(chunks), form, rules)
    if form.is_short:
        raise InvalidValue(param="body", problem=f"is longer than {SMALL_BODY} bytes, the most of this route")
    return await context.bodies.parse(chunks, form, rules)


def require_json(request: Request) -> None:
    """Raises UnsupportedMediaType."""
    content_type = header(request.scope, b"content-type") or ""
    if not is_json(content_type):
        raise UnsupportedMediaType(got=content_type, expected="application/json")


def is_json(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "application/json"


def parsed_here(raw: bytes, form: BodyForm[BodyT], rules: BodyRules) -> ReadBody[BodyT]:
    """Raises what `parse_body` does."""
    fields = parse_body(raw, form.kind, max_items=rules.max_items)
    return ReadBody(fields, functools.partial(form.items_of, fields, rules))
