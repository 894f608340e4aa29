"""The bodies of requests and responses: checked strictly, and described for /docs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

MAX_TIMEOUT_MS = 10**9

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
Media = Annotated[
    Any,
    WithJsonSchema(
        {
            "description": "A URL, a path, a data URI or base64; with several items one each, null where it has none.",
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "null"}]}, "minItems": 1},
                {"type": "null"},
            ],
        }
    ),
]
Messages = Annotated[
    Any,
    WithJsonSchema({"anyOf": [{"type": "array", "items": {"type": "object"}, "minItems": 1}, {"type": "null"}]}),
]
Priority = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
TimeoutMs = Annotated[int, Field(ge=1, le=MAX_TIMEOUT_MS, description="A 504 where the answer takes longer.")]


PLAIN: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
"""`responses` of a route whose good answers are plain text; its errors are JSON as everywhere"""


class Body(BaseModel):
    """A request's body. Types are strict: no string is taken for a number. Unknown fields are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", protected_namespaces=(), frozen=True)


class EmbeddingRequest(Body):
    """`POST /v1/embeddings`: OpenAI's fields, SGLang's extensions and ours. null is the same as leaving a field out."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["input"]}, {"required": ["messages"]}]})

    model: str
    input: Input = None
    messages: Messages = Field(None, description="In the place of 'input': a chat of one user's message, one item.")
    encoding_format: Literal["float", "base64"] | None = Field(None, description="base64: little-endian float32.")
    dimensions: int | None = Field(None, ge=1, description="Matryoshka: cut to this many, then renormalise.")
    user: str | None = None
    priority: Priority | None = Field(None, description="Larger first, if the server was not told otherwise.")
    timeout_ms: TimeoutMs | None = None
    rid: RequestIds = Field(None, description="A request id, or one an item; a single one is echoed in X-Request-Id.")
    lora_path: AdapterNames = Field(None, description="A LoRA adapter, or one an item; null is the base model.")
    image_data: Any = Field(None, exclude=True, description="Of /encode; here an item of 'input' has its 'image'.")
    video_data: Any = Field(None, exclude=True, description="Of /encode; here an item of 'input' has its 'video'.")
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
    image_data: Media = None
    video_data: Media = None
    audio_data: Annotated[Any, WithJsonSchema({})] = None
    rid: RequestIds = None
    lora_path: AdapterNames = None
    priority: Priority | None = None
    timeout_ms: TimeoutMs | None = None
    dimensions: int | None = Field(None, ge=1)
    model: str | None = Field(None, description="Which of several models; without it the first one.")


class LoadAdapterRequest(Body):
    """`POST /load_lora_adapter`"""

    lora_name: str = Field(description="The name by which requests ask for it. One that has the name is replaced.")
    lora_path: str = Field(description="A folder as peft saves it, or a Hub id.", min_length=1)
    pinned: bool | None = Field(None, description="Never evict it for --max-loaded-loras.")
    model: str | None = Field(None, description="Which of several models; without it the first one.")


class UnloadAdapterRequest(Body):
    """`POST /unload_lora_adapter`"""

    lora_name: str
    model: str | None = Field(None, description="Which of several models; without it the first one.")


class LoadModelRequest(Body):
    """`POST /load_model`"""

    model: str = Field(description="A Hugging Face id, or a folder that the operator opened.", min_length=1)
    alias: str | list[str] | None = Field(None, description="Further name for it, or several.")
    settings: dict[str, Any] | None = Field(
        None, description="Settings of its own, by their names in the configuration: dtype, pooling, replicas …"
    )


class UnloadModelRequest(Body):
    """`POST /unload_model`"""

    model: str = Field(description="Any of its names.")


class AbortRequest(Body):
    """`POST /abort_request`"""

    rid: str | None = Field(None, description="The id of the requests to end; unknown ones are ignored.")
    abort_all: bool = False


class TokenizeRequest(Body):
    """`POST /tokenize`"""

    prompt: Annotated[Any, WithJsonSchema({"anyOf": _INPUT_SCHEMA["anyOf"][:2]})]
    model: str | None = Field(None, description="Which of several models; without it the first one.")
    add_special_tokens: bool = True


class DetokenizeRequest(Body):
    """`POST /detokenize`"""

    tokens: Annotated[Any, WithJsonSchema({"anyOf": _INPUT_SCHEMA["anyOf"][2:4]})]
    model: str | None = Field(None, description="Which of several models; without it the first one.")
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


def json_request(kind: type[Body]) -> dict[str, Any]:
    """`openapi_extra` for a route that reads its body with `body_reader.read_body`."""
    schema = kind.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
