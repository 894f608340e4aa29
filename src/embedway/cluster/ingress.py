"""What a cluster's clients talk to: the routes of one server, each request led to a replica of the model it names.

A replica that dies, or is about to go, has begun nothing that could not be begun again: its requests are sent to
another one. So each accepted request has its answer, or one clear error.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import orjson
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import DeploymentUnavailableError
from starlette.responses import Response

from embedway.api.auth import checked_key
from embedway.api.error_response import error_response
from embedway.api.request_context import request_id_for
from embedway.api.served_models import adapter_in
from embedway.cluster.every_replica import ask_every
from embedway.cluster.joined_answers import METRICS, SERVER_INFO, joined
from embedway.errors import (
    BodyTooLarge,
    EmbedwayError,
    EngineNotReady,
    InternalFault,
    MethodNotAllowed,
    ModelNotFound,
    RouteNotFound,
    ShuttingDown,
)

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle
    from starlette.requests import Request

    from embedway.api_keys import ApiKeys

Answer: TypeAlias = "tuple[int, dict[str, str], bytes]"

MODELS = "/v1/models"
PROBES = frozenset({"/health", "/readyz", "/livez"})
OF_ONE_REPLICA = {
    **dict.fromkeys(("/v1/embeddings", "/encode"), "POST"),
    **dict.fromkeys(("/tokenize", "/v1/tokenize", "/detokenize", "/v1/detokenize"), "POST"),
    **dict.fromkeys(("/model_info", "/get_model_info", "/health_generate"), "GET"),
}
OF_ONE_MODEL = {**dict.fromkeys(SERVER_INFO, "GET"), "/flush_cache": "POST"}
"""Of all replicas of the model that the query names"""
OF_ALL_MODELS = {METRICS: "GET", "/abort_request": "POST"}
METHODS = {**OF_ONE_REPLICA, **OF_ONE_MODEL, **OF_ALL_MODELS, MODELS: "GET"}
MAX_TRIES = 6
PAUSE_SECONDS = 0.1
"""Before the second try, twice as long before each further one"""


@dataclass(frozen=True)
class Model:
    names: tuple[str, ...]
    handle: DeploymentHandle


class Ingress:
    """Ray Serve's class of the application's front."""

    def __init__(
        self, names: Mapping[str, tuple[str, ...]], *, keys: ApiKeys, max_body_mb: int, **handles: DeploymentHandle
    ) -> None:
        """Each model's names, and its handle by the same name of an argument. Replicas look at API keys, too."""
        self._keys = keys
        self._models = [Model(tuple(own), handles[key]) for key, own in names.items()]
        self._by_name = {name: model for model in self._models for name in model.names}
        self._max_bytes = max_body_mb * 2**20

    async def __call__(self, request: Request) -> Response:
        """Ray's proxy writes the answer's `X-Request-Id`: the client's, or one of its own."""
        request_id = request_id_for(request.headers.get("x-request-id"))
        try:
            response = await self._response(request, {**dict(request.headers), "x-request-id": request_id})
        except EmbedwayError as error:
            response = error_response(error)
        except RayTaskError:
            response = error_response(InternalFault(request_id=request_id))
        return response

    async def _response(self, request: Request, headers: Mapping[str, str]) -> Response:
        """Raises EmbedwayError."""
        path, method = request.url.path, request.method
        if path in PROBES:
            return await self._health(path)
        if self._keys.users:
            checked_key(request.scope, self._keys)
        wanted = "GET" if path.startswith(f"{MODELS}/") else METHODS.get(path)
        if wanted is None:
            raise RouteNotFound(method=method, path=path)
        if method != wanted:
            raise MethodNotAllowed(method=method, path=path, allowed=wanted)
        if path == MODELS:
            return await self._all_models(headers)
        body = await self._body(request)
        target = path if not request.url.query else f"{path}?{request.url.query}"
        if path in OF_ALL_MODELS:
            return await self._every_replica(self._models, method, target, headers, body)
        if path in OF_ONE_MODEL:
            named, _ = self._choice(request.query_params.get("model"), b"")
            return await self._every_replica([named], method, target, headers, body)
        name = path.removeprefix(f"{MODELS}/") if path.startswith(MODELS) else named_in(body)
        model, affinity = self._choice(name, body)
        return response_of(await send(model.handle, method, target, headers, body, affinity))

    async def _body(self, request: Request) -> bytes:
        """Raises BodyTooLarge."""
        read = bytearray()
        async for chunk in request.stream():
            read += chunk
            if len(read) > self._max_bytes:
                raise BodyTooLarge(limit=self._max_bytes)
        return bytes(read)

    def _choice(self, name: object, body: bytes) -> tuple[Model, str]:
        """The model, and what its router keeps together. Raises ModelNotFound.

        Where no model is named as it should be, the first one says what is wrong.
        """
        if not isinstance(name, str):
            return self._models[0], ""
        adapter = adapter_in(name, self._by_name)
        if adapter is not None:
            return self._by_name[name[: -len(adapter) - 1]], f"adapter {adapter}"
        if name not in self._by_name:
            raise ModelNotFound(param="model", name=name, served=", ".join(self._by_name))
        return self._by_name[name], hashlib.blake2b(body, digest_size=8).hexdigest()

    async def _every_replica(
        self, models: Sequence[Model], method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> Response:
        asked = (ask_every(model.handle, method, target, headers, body) for model in models)
        said = [one for own in await asyncio.gather(*asked) for one in own]
        return response_of(joined(target.partition("?")[0], said))

    async def _all_models(self, headers: Mapping[str, str]) -> Response:
        answers = await asyncio.gather(*(send(model.handle, "GET", MODELS, headers, b"", "") for model in self._models))
        if failed := next((answer for answer in answers if answer[0] != 200), None):
            return response_of(failed)
        data = [entry for _, _, body in answers for entry in orjson.loads(body)["data"]]
        return Response(orjson.dumps({"object": "list", "data": data}), media_type="application/json")

    async def _health(self, path: str) -> Response:
        """Of every model: a cluster that cannot serve one of them is not well."""
        if path == "/livez":
            return Response(b'{"status":"alive"}', media_type="application/json")
        answers = await asyncio.gather(*(send(model.handle, "GET", path, {}, b"", "") for model in self._models))
        return response_of(max(answers, key=lambda answer: answer[0]))


def named_in(body: bytes) -> object:
    """What a body calls the model; None where it says nothing that can be read."""
    try:
        content: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return content.get("model") if isinstance(content, dict) else None


async def send(
    handle: DeploymentHandle, method: str, path: str, headers: Mapping[str, str], body: bytes, affinity: str
) -> Answer:
    """The answer of a replica; another one is asked where one is lost or going. Raises EngineNotReady."""
    pause = PAUSE_SECONDS
    for _ in range(MAX_TRIES):
        try:
            status, own_headers, content = await handle.answer.remote(method, path, headers, body, affinity=affinity)
        except (RayActorError, ConnectionError, DeploymentUnavailableError):
            pass
        else:
            if status != 503 or code_of(content) != ShuttingDown.code:
                return status, own_headers, content
        await asyncio.sleep(pause)
        pause *= 2
    raise EngineNotReady(state="no replica of it answers")


def code_of(body: bytes) -> object:
    """Of an error in OpenAI's shape."""
    try:
        return orjson.loads(body)["error"]["code"]
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return None


def response_of(answer: Answer) -> Response:
    status, headers, body = answer
    return Response(body, status, {name: value for name, value in headers.items() if name != "x-request-id"})
