"""What a request to embed asks for, checked: of the routes that embed, and without anything of HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from embedway.api.body_forms import EMBEDDING, ENCODE
from embedway.api.request_context import is_safe_request_id
from embedway.errors import InvalidType, InvalidValue
from embedway.inputs.json_types import describe_json_type
from embedway.inputs.sequences import InputOptions
from embedway.outputs.encoding import embedding_response, encode_response
from embedway.outputs.vector_types import check_dimensions, check_output_dtype, finish

if TYPE_CHECKING:
    from embedway.api.body_forms import BodyForm, ReadBody
    from embedway.api.schemas import EmbeddingRequest, EncodeRequest
    from embedway.api.served_models import ServedModel, ServedModels
    from embedway.engine.client import EmbedResult
    from embedway.inputs.items import Items
    from embedway.packed_sequences import PackedSequences

Write: TypeAlias = "Callable[[PackedSequences, EmbedResult, str], list[bytes]]"
"""The answer's JSON in pieces, of what was embedded and the request's id"""
CallOf: TypeAlias = "Callable[[ServedModels, ReadBody[Any], float], EmbeddingCall]"
"""Of a body and when its head came, by `time.monotonic`"""


@dataclass(slots=True)  # frozen, it would take a microsecond to make
class EmbeddingCall:
    model: ServedModel
    adapter: str | None
    """The one that the model's name asks for"""
    body: EmbeddingRequest | EncodeRequest
    items: Items
    options: InputOptions
    write: Write

    @property
    def request_id(self) -> str | None:
        """The one that the body gives the request"""
        return self.body.rid if isinstance(self.body.rid, str) else None

    @property
    def item_ids(self) -> Sequence[str]:
        """Those that the body gives its items"""
        return self.body.rid if isinstance(self.body.rid, list) else ()


def call_of_embeddings(models: ServedModels, read: ReadBody[EmbeddingRequest], _: float) -> EmbeddingCall:
    """Of /v1/embeddings. Raises what is wrong with it."""
    body = read.fields
    model, adapter = models.find(body.model)
    items, instruction = read.items()
    if instruction is not None and model.sequences.chat is None:
        raise InvalidValue(param="messages", problem="has a system message, for which this model has no place")
    dimensions = check_common_fields(model, body, items)
    output_dtype, normalize = body.output_dtype or "float32", body.normalize is not False
    check_output_dtype(output_dtype, dimension=dimensions or model.spec.dimension, normalize=normalize)
    truncate = body.truncate or model.settings.truncate
    options = InputOptions(body.input_type, body.prompt_name, instruction or body.prompt, truncate)

    def write(sequences: PackedSequences, result: EmbedResult, _: str) -> list[bytes]:
        vectors = finish(result.vectors, dimensions=dimensions, normalize=normalize, output_dtype=output_dtype)
        return embedding_response(
            vectors,
            encoding_format=body.encoding_format or "float",
            model=body.model,
            prompt_tokens=sequences.num_tokens,
        )

    return EmbeddingCall(model, adapter, body, items, options, write)


def call_of_encode(models: ServedModels, read: ReadBody[EncodeRequest], started_at: float) -> EmbeddingCall:
    """Of SGLang's /encode, whose head came at `started_at` by `time.monotonic`. Raises what is wrong with it."""
    body = read.fields
    model, adapter = models.find(models.named(None).name if body.model is None else body.model)
    items, _ = read.items()
    dimensions = check_common_fields(model, body, items)

    def write(sequences: PackedSequences, result: EmbedResult, request_id: str) -> list[bytes]:
        vectors = finish(result.vectors, dimensions=dimensions, normalize=True, output_dtype="float32")
        ids = body.rid if isinstance(body.rid, list) else [request_id] * len(vectors)
        latency = time.monotonic() - started_at
        meta_infos = [
            {"id": id_, "finish_reason": {"type": "stop"}, "prompt_tokens": num_tokens, "e2e_latency": latency}
            for id_, num_tokens in zip(ids, sequences.lengths.tolist(), strict=True)
        ]
        return encode_response(vectors, meta_infos, is_single=items.is_single)

    return EmbeddingCall(model, adapter, body, items, InputOptions(truncate=model.settings.truncate), write)


def check_common_fields(model: ServedModel, body: EmbeddingRequest | EncodeRequest, items: Items) -> int | None:
    """Check `rid` and `dimensions`; the length to cut vectors to, None for the full one."""
    check_request_ids(body.rid, items)
    return check_dimensions(model.spec, body.dimensions, allow_any=model.settings.matryoshka)


def check_request_ids(rid: object, items: Items) -> None:
    if rid is None:
        return
    if isinstance(rid, list) and len(rid) != len(items):
        raise InvalidValue(param="rid", problem=f"has {len(rid)} ids for {len(items)} items")
    for i, value in enumerate(rid if isinstance(rid, list) else [rid]):
        param = f"rid[{i}]" if isinstance(rid, list) else "rid"
        if not isinstance(value, str):
            raise InvalidType(param=param, expected="a string", got=describe_json_type(value))
        if not is_safe_request_id(value):
            raise InvalidValue(
                param=param, problem="must be 1 to 128 characters, each a letter, a digit or one of ._:/+=@-"
            )


CALLS: Mapping[str, tuple[BodyForm[Any], CallOf]] = {
    "/v1/embeddings": (EMBEDDING, call_of_embeddings),
    "/encode": (ENCODE, call_of_encode),
}
"""By the paths of the routes that embed"""
