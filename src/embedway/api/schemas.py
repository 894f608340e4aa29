"""The bodies of requests and responses: checked strictly, and described for /docs."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import orjson
from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic_core import ErrorDetails

from embedway.api.headers import header
from embedway.errors import InvalidJson, InvalidType, InvalidValue, MissingField, UnsupportedMediaType
from embedway.inputs.items import describe_json_type

BodyT = TypeVar("BodyT", bound="Body")

_ITEM = {
    "type": "object",
    "properties": {key: {"type": "string", "minLength": 1} for key in ("text", "image", "video")},
    "minProperties": 1,
}
_TOKEN_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_INPUT_SCHEMA = {
    "description": "One item or several: text, token ids of the model's own tokenizer, or objects.",
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1},
        _TOKEN_IDS,
        {"type": "array", "items": _TOKEN_IDS, "minItems": 1},
        {"type": "array", "items": _ITEM, "minItems": 1},
        _ITEM,
    ],
    "examples": ["The quick brown fox jumps over the lazy dog"],
}

Input = Annotated[Any, WithJsonSchema(_INPUT_SCHEMA)]
RequestIds = Annotated[
    Any,
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "null"}]}),
]
AdapterNames = Annotated[
    Any,
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "null"}]}},
                {"type": "null"},
            ]
        }
    ),
]
Priority = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]


class Body(BaseModel):
    """A request's body. Types are strict: no string is taken for a number. Unknown fields are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", protected_namespaces=(), frozen=True)


class EmbeddingRequest(Body):
    """`POST /v1/embeddings`: OpenAI's fields, SGLang's extensions and ours. null is the same as leaving a field out."""

    input: Input
    model: str
    encoding_format: Literal["float", "base64"] | None = Field(None, description="base64: little-endian float32.")
    dimensions: int | None = Field(None, ge=1, description="Matryoshka: cut to this many, then renormalise.")
    user: str | None = None
    priority: Priority | None = Field(None, description="Larger first; no value is 0.")
    rid: RequestIds = Field(None, description="A request id, or one an item; a single one is echoed in X-Request-Id.")
    lora_path: AdapterNames = Field(None, description="A LoRA adapter, or one an item; null is the base model.")
    truncate: Literal["none", "end", "start"] | None = Field(
        None, description="For an item that is too long: refuse it, keep its start (end), or its end (start)."
    )
    normalize: bool | None = Field(None, description="false: the pooled vector as it is. Default: unit length.")
    input_type: Literal["query", "document"] | None = Field(None, description="Use the model's prompt for this kind.")
    prompt_name: str | None = Field(None, description="Use the model's prompt of this name.")
    prompt: str | None = Field(None, description="Put this text before every item.")
    output_dtype: Literal["float32", "int8", "uint8", "binary", "ubinary"] | None = Field(
        None, description="float32, or quantised vectors; binary and ubinary pack eight dimensions a byte."
    )


class EncodeRequest(Body):
    """`POST /encode`: SGLang's native form."""

    text: Annotated[Any, WithJsonSchema({"anyOf": [*_INPUT_SCHEMA["anyOf"][:2], {"type": "null"}]})] = None
    input_ids: Annotated[Any, WithJsonSchema({"anyOf": [*_INPUT_SCHEMA["anyOf"][2:4], {"type": "null"}]})] = None
    image_data: Annotated[Any, WithJsonSchema({})] = None
    video_data: Annotated[Any, WithJsonSchema({})] = None
    audio_data: Annotated[Any, WithJsonSchema({})] = None
    rid: RequestIds = None
    lora_path: AdapterNames = None
    priority: Priority | None = None
    dimensions: int | None = Field(None, ge=1)


class TokenizeRequest(Body):
    """`POST /tokenize`"""

    prompt: Annotated[Any, WithJsonSchema({"anyOf": _INPUT_SCHEMA["anyOf"][:2]})]
    model: str | None = None
    add_special_tokens: bool = True


class DetokenizeRequest(Body):
    """`POST /detokenize`"""

    tokens: Annotated[Any, WithJsonSchema({"anyOf": _INPUT_SCHEMA["anyOf"][2:4]})]
    model: str | None = None
    skip_special_tokens: bool = True


class EmbeddingObject(BaseModel):
    object: Literal["embedding"]
    embedding: list[float] | list[int] | str
    index: int


class Usage(BaseModel):
    prompt_tokens: int = Field(description="Every token the model read, special tokens included.")
    total_tokens: int


class EmbeddingResponse(BaseModel):
    object: Literal["list"]
    data: list[EmbeddingObject]
    model: str
    usage: Usage


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str


class ErrorResponse(BaseModel):
    error: ErrorDetail


async def read_body(request: Request, kind: type[BodyT]) -> BodyT:
    """Read and check a request's JSON body.

    Raises UnsupportedMediaType, InvalidJson, MissingField, InvalidType or InvalidValue.
    """
    content_type = header(request.scope, b"content-type") or ""
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise UnsupportedMediaType(got=content_type)
    raw = await request.body()
    try:
        values = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidJson(problem=str(error).rstrip(".")) from None
    if not isinstance(values, dict):
        raise InvalidType(param="body", expected="an object", got=describe_json_type(values))
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


def json_request(kind: type[Body]) -> dict[str, Any]:
    """`openapi_extra` for a route that reads its body with `read_body`."""
    schema = kind.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
