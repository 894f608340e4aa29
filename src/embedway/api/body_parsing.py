"""The bytes of a body → its fields, checked: on the event loop for small bodies, in a worker for others."""

from __future__ import annotations

from typing import TypeVar

import orjson
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from embedway.api.schemas import Body
from embedway.errors import InvalidJson, InvalidType, InvalidValue, MissingField
from embedway.inputs.json_types import describe_json_type

BodyT = TypeVar("BodyT", bound=Body)

ONE_AN_ITEM = ("rid", "lora_path")
"""Fields with an entry for each item: what no request can have so many of is not looked through"""


def parse_body(raw: bytes | bytearray, kind: type[BodyT], *, max_items: int) -> BodyT:
    """`max_items` of a request. Raises InvalidJson, MissingField, InvalidType or InvalidValue."""
    try:
        values = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidJson(problem=str(error).rstrip(".")) from None
    if not isinstance(values, dict):
        raise InvalidType(param="body", expected="an object", got=describe_json_type(values))
    for name in ONE_AN_ITEM:
        given = values.get(name)
        if isinstance(given, list) and len(given) > max_items:
            raise InvalidValue(param=name, problem=f"has {len(given)} entries, and a request at most {max_items} items")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _as_request_error(error.errors(include_url=False)[0]) from None


_EXPECTED = {"string_type": "a string", "int_type": "an integer", "bool_type": "true or false"}


def _as_request_error(problem: ErrorDetails) -> MissingField | InvalidType | InvalidValue:
    param, kind, given = str(problem["loc"][0]), problem["type"], problem["input"]
    if kind == "missing":
        return MissingField(param=param)
    if kind in _EXPECTED:
        return InvalidType(param=param, expected=_EXPECTED[kind], got=describe_json_type(given))
    if kind == "literal_error":
        expected = "one of " + str(problem.get("ctx", {}).get("expected", "")).replace("'", '"')
        if not isinstance(given, str):
            return InvalidType(param=param, expected=expected, got=describe_json_type(given))
        return InvalidValue(param=param, problem=f'must be {expected}, but it is "{given[:100]}"')
    bounds = problem.get("ctx", {})
    if kind in ("greater_than_equal", "less_than_equal"):
        bound = f"at least {bounds['ge']}" if "ge" in bounds else f"at most {bounds['le']}"
        return InvalidValue(param=param, problem=f"must be {bound}, but it is {given}")
    return InvalidValue(param=param, problem="is not valid: " + problem["msg"][0].lower() + problem["msg"][1:])
