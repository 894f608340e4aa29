"""Every error that Embedway raises on purpose: its sentence, HTTP status, OpenAI type and code.

EmbedwayError
├── RequestError                    the client's request is at fault
│   ├── InvalidJson                 400 invalid_json
│   ├── MissingField                400 missing_field
│   ├── InvalidType                 400 invalid_type
│   ├── InvalidValue                400 invalid_value
│   ├── EmptyInput                  400 empty_input
│   ├── InvalidTokenId              400 invalid_token_id
│   ├── ContextLengthExceeded       400 context_length_exceeded
│   ├── TooManyItems                400 too_many_items
│   ├── TooManyTokens               400 too_many_tokens
│   ├── TooManyCharacters           400 too_many_characters
│   ├── DimensionsNotSupported      400 dimensions_not_supported
│   ├── UnknownPrompt               400 unknown_prompt
│   ├── AdaptersNotSupported        400 adapters_not_supported
│   ├── MediaNotSupported           400 media_not_supported
│   ├── MalformedHttp               400 malformed_http
│   ├── InvalidApiKey               401 invalid_api_key
│   ├── ModelNotFound               404 model_not_found
│   ├── RouteNotFound               404 route_not_found
│   ├── MethodNotAllowed            405 method_not_allowed
│   ├── BodyTooLarge                413 body_too_large
│   └── UnsupportedMediaType        415 unsupported_media_type
├── ServerFault                     our side is at fault
│   ├── InternalFault               500 internal_error
│   ├── ItemFailed                  500 item_failed
│   ├── NonFiniteVector             500 non_finite_vector
│   ├── EngineNotReady              503 engine_not_ready
│   ├── EngineLost                  503 engine_lost
│   └── ShuttingDown                503 shutting_down
└── StartupError                    never sent over HTTP: one line on stderr, exit status 2
    ├── InvalidSetting
    ├── AddressInUse
    ├── ModelNotAvailable
    ├── UnsupportedCheckpoint
    └── TorchNotInstalled

An error is raised where it is found, with the values that its sentence needs; `api/error_response.py` alone turns it
into a body, and `cli.py` alone into an exit status.
"""

from __future__ import annotations

from typing import ClassVar

LONGEST_VALUE = 500
"""Characters of one value in the sentence of a RequestError."""


class EmbedwayError(Exception):
    """The base: `sentence` is filled from the keyword values; `param` names the request field at fault."""

    sentence: ClassVar[str] = "{message}"
    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"
    retry_after_seconds: ClassVar[int | None] = None

    def __init__(self, *, param: str | None = None, **values: object) -> None:
        self.param = param
        self.message = self.sentence.format(param=param, **values)
        super().__init__(self.message)


class RequestError(EmbedwayError):
    """The client's own words in a sentence are cut: an answer is never as long as its request."""

    status = 400
    type = "invalid_request_error"

    def __init__(self, *, param: str | None = None, **values: object) -> None:
        super().__init__(param=param, **{name: _shortened(value) for name, value in values.items()})


def _shortened(value: object) -> object:
    if not isinstance(value, str) or len(value) <= LONGEST_VALUE:
        return value
    return value[:LONGEST_VALUE] + "…"


class InvalidJson(RequestError):
    sentence = "The request body is not valid JSON: {problem}."
    code = "invalid_json"


class MissingField(RequestError):
    sentence = "The required field '{param}' is missing."
    code = "missing_field"


class InvalidType(RequestError):
    sentence = "'{param}' must be {expected}, but it is {got}."
    code = "invalid_type"


class InvalidValue(RequestError):
    sentence = "'{param}' {problem}."
    code = "invalid_value"


class EmptyInput(RequestError):
    sentence = "'{param}' is {what}: there is nothing to embed."
    code = "empty_input"


class InvalidTokenId(RequestError):
    sentence = (
        "'{param}' is the token id {token_id}, outside this model's vocabulary (0 to {largest}). Token ids must come "
        "from the tokenizer of this model, not from OpenAI's; with LangChain's OpenAIEmbeddings set "
        "check_embedding_ctx_length=False, so that it sends text."
    )
    code = "invalid_token_id"


class ContextLengthExceeded(RequestError):
    sentence = (
        "'{param}' has {length} tokens, but the model reads at most {limit} tokens an item, {included} included. "
        'Send a shorter item, or set \'truncate\' to "end" or "start" (for all requests: --truncate).'
    )
    code = "context_length_exceeded"


class TooManyItems(RequestError):
    sentence = "'{param}' has {count} items, but a request may have at most {limit} (--max-items)."
    code = "too_many_items"


class TooManyTokens(RequestError):
    sentence = "'{param}' has {count} tokens in all, but a request may have at most {limit} (--max-request-tokens)."
    code = "too_many_tokens"


class TooManyCharacters(RequestError):
    sentence = "The tokens of '{param}' are not within {limit} characters, the most that are read of {scope}."
    code = "too_many_characters"


class DimensionsNotSupported(RequestError):
    sentence = "'dimensions' is {dimensions}, but {problem}."
    code = "dimensions_not_supported"


class UnknownPrompt(RequestError):
    sentence = "'prompt_name' is {name!r}, but this model declares {declared}."
    code = "unknown_prompt"


class AdaptersNotSupported(RequestError):
    sentence = "'{param}' asks for the LoRA adapter {adapter!r}, but this server serves no adapters."
    code = "adapters_not_supported"


class MediaNotSupported(RequestError):
    sentence = "'{param}' is {kind} input, but the model of this server reads text only."
    code = "media_not_supported"


class MalformedHttp(RequestError):
    sentence = "The HTTP request could not be parsed."
    code = "malformed_http"


class InvalidApiKey(RequestError):
    sentence = "{problem}. Send the header 'Authorization: Bearer KEY'."
    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class ModelNotFound(RequestError):
    sentence = "The model {name!r} does not exist here. Served: {served}."
    status = 404
    code = "model_not_found"


class RouteNotFound(RequestError):
    sentence = "There is no route {method} {path}; GET /docs lists the routes."
    status = 404
    code = "route_not_found"


class MethodNotAllowed(RequestError):
    sentence = "{path} does not take {method}; it takes {allowed}."
    status = 405
    code = "method_not_allowed"


class BodyTooLarge(RequestError):
    sentence = "The request body is larger than {limit} bytes (--max-body-mb)."
    status = 413
    code = "body_too_large"


class UnsupportedMediaType(RequestError):
    sentence = "The content type is {got!r}, but it must be 'application/json'."
    status = 415
    code = "unsupported_media_type"


class ServerFault(EmbedwayError):
    """A fault of ours. The sentence tells the client what to do next, never where the code failed."""


class InternalFault(ServerFault):
    sentence = "The server failed on this request. It is logged under request id {request_id}."
    code = "internal_error"


class ItemFailed(ServerFault):
    sentence = "The model failed on '{param}'. The other items of the batch are not at fault."
    code = "item_failed"


class NonFiniteVector(ServerFault):
    sentence = "The model gave NaN or infinity for '{param}', so no vector is sent. --dtype float32 may help."
    code = "non_finite_vector"


class EngineNotReady(ServerFault):
    sentence = "The model is not ready: {state}. Try again shortly."
    status = 503
    code = "engine_not_ready"
    retry_after_seconds = 2


class EngineLost(ServerFault):
    sentence = "The engine stopped while it worked on this request, twice or for too long. Try again shortly."
    status = 503
    code = "engine_lost"
    retry_after_seconds = 5


class ShuttingDown(ServerFault):
    sentence = "The server is shutting down and could not finish this request in time. Send it to another one."
    status = 503
    code = "shutting_down"
    retry_after_seconds = 5


class StartupError(EmbedwayError):
    """The server cannot start as it was asked to; the sentence is for the operator."""

    exit_status: ClassVar[int] = 2


class InvalidSetting(StartupError):
    sentence = "{setting}: {problem}"


class AddressInUse(StartupError):
    sentence = "cannot listen on {host}:{port}: {problem}. Choose another --port, or stop what uses it."


class ModelNotAvailable(StartupError):
    sentence = "cannot get the model {name!r}: {problem}"


class UnsupportedCheckpoint(StartupError):
    sentence = "cannot serve {folder}: {problem}"


class TorchNotInstalled(StartupError):
    sentence = "{what} needs {package}, which is not installed: pip install 'embedway[torch]'"
