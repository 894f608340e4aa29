"""Every error that Embedway raises on purpose: its sentence, HTTP status, OpenAI type and code.

EmbedwayError
├── RequestError                    the client's request is at fault
│   ├── InvalidJson                 400 invalid_json
│   ├── MissingField                400 missing_field
│   ├── InvalidType                 400 invalid_type
│   ├── InvalidValue                400 invalid_value
│   ├── EmptyInput                  400 empty_input
│   ├── InvalidTokenId              400 invalid_token_id
│   ├── PlaceholderTokenId          400 invalid_token_id
│   ├── ContextLengthExceeded       400 context_length_exceeded
│   ├── TooManyItems                400 too_many_items
│   ├── TooManyTokens               400 too_many_tokens
│   ├── TooManyCharacters           400 too_many_characters
│   ├── DimensionsNotSupported      400 dimensions_not_supported
│   ├── UnknownPrompt               400 unknown_prompt
│   ├── AdapterRefused              400 adapter_refused
│   ├── ModelRefused                400 model_refused
│   ├── MediaNotSupported           400 media_not_supported
│   ├── MediaUnreadable             400 media_unreadable
│   ├── MediaTooLarge               400 media_too_large
│   ├── MediaFetchFailed            400 media_fetch_failed
│   ├── InvalidMultipart            400 invalid_multipart
│   ├── MalformedHttp               400 malformed_http
│   ├── InvalidApiKey               401 invalid_api_key
│   ├── AdminOnly                   403 admin_only
│   ├── PathNotAllowed              403 path_not_allowed
│   ├── MediaNotAllowed             403 media_not_allowed
│   ├── ModelNotFound               404 model_not_found
│   ├── AdapterNotFound             404 adapter_not_found
│   ├── BatchesNotServed            404 batches_not_served
│   ├── UnknownFile                 404 file_not_found
│   ├── UnknownBatch                404 batch_not_found
│   ├── RouteNotFound               404 route_not_found
│   ├── MethodNotAllowed            405 method_not_allowed
│   ├── RequestTimedOut             408 request_timed_out
│   ├── RequestAborted              409 request_aborted
│   ├── RestartInProgress           409 restart_in_progress
│   ├── ModelConflict               409 model_conflict
│   ├── FileInUse                   409 file_in_use
│   ├── BatchHasEnded               409 batch_has_ended
│   ├── FileTooLarge                413 file_too_large
│   ├── BodyTooLarge                413 body_too_large
│   ├── UnsupportedMediaType        415 unsupported_media_type
│   ├── HostNotAllowed              421 host_not_allowed
│   ├── ServerOverloaded            429 server_overloaded
│   └── HeadTooLarge                431 head_too_large
├── ServerFault                     our side is at fault
│   ├── InternalFault               500 internal_error
│   ├── ItemFailed                  500 item_failed
│   ├── NonFiniteVector             500 non_finite_vector
│   ├── ModelUnavailable            503 model_unavailable
│   ├── EngineNotReady              503 engine_not_ready
│   ├── EngineLost                  503 engine_lost
│   ├── MediaBusy                   503 media_busy
│   ├── TooManyConnections          503 too_many_connections
│   ├── ShuttingDown                503 shutting_down
│   ├── BatchStorageFault           503 batch_storage_unavailable
│   ├── DeadlineExceeded            504 deadline_exceeded
│   └── StorageFull                 507 storage_full
└── StartupError                    never sent over HTTP: one line on stderr, exit status 2 (of any command)
    ├── InvalidSetting
    ├── CannotCheck
    ├── NotMeasurable
    ├── AddressInUse
    ├── ModelNotAvailable
    ├── UnsupportedCheckpoint
    ├── TorchNotInstalled
    ├── MediaNotInstalled
    ├── TracingNotInstalled
    ├── FilesNotInstalled
    ├── InputUnreadable
    ├── OutputUnwritable
    ├── Interrupted                 exit status 128 + the signal's number
    ├── ServerRefuses
    ├── ClusterNotInstalled
    ├── ClusterFailed
    ├── ReplicaFailed
    └── RowFailed                   exit status 1

An error is raised where it is found, with the values that its sentence needs; `api/error_response.py` alone turns it
into a body, and `cli.py` alone into an exit status.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from typing_extensions import Self

LONGEST_VALUE = 500
"""Characters of one value in the sentence of a RequestError."""


class EmbedwayError(Exception):
    """The base: `sentence` is filled from the keyword values; `param` names the request field at fault."""

    sentence: ClassVar[str] = "{message}"
    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"
    retry_after_seconds: int | None = None
    is_final: ClassVar[bool] = False
    """Clients that try again by themselves are told not to."""

    def __init__(self, *, param: str | None = None, **values: object) -> None:
        self.param = param
        self.message = self.sentence.format(param=param, **values)
        super().__init__(self.message)

    @classmethod
    def said(cls, message: str, param: str | None) -> Self:
        """The error as another process raised it: its sentence is filled already."""
        error = cls.__new__(cls, message)
        error.param, error.message = param, message
        return error

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as it was said: other processes, such as Ray's, have no values for its sentence."""
        return type(self).said, (self.message, self.param), self.__dict__


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


class PlaceholderTokenId(RequestError):
    sentence = (
        "'{param}' is the token id {token_id}, which stands for a part of an image or video, and token ids come "
        "without any: send an object with 'image' or 'video'."
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


class AdapterRefused(RequestError):
    sentence = "The LoRA adapter {adapter!r} cannot be loaded: {problem}."
    code = "adapter_refused"

    def __init__(self, *, adapter: str, problem: str, param: str | None = None) -> None:
        super().__init__(param=param, adapter=adapter, problem=problem)
        self.adapter, self.problem = adapter, problem  # an engine sends them to the API process, which raises it anew


class ModelRefused(RequestError):
    sentence = "The model {name!r} cannot be loaded: {problem}."
    code = "model_refused"


class MediaNotSupported(RequestError):
    sentence = "'{param}' is {kind} input, which the model of this server does not read."
    code = "media_not_supported"


class MediaUnreadable(RequestError):
    sentence = "'{param}' cannot be read as {kind}: {problem}."
    code = "media_unreadable"


class MediaTooLarge(RequestError):
    sentence = "'{param}' {problem}, but at most {limit} are read ({flag})."
    code = "media_too_large"


class MediaFetchFailed(RequestError):
    sentence = "'{param}' could not be fetched: {problem}."
    code = "media_fetch_failed"


class MediaNotAllowed(RequestError):
    sentence = "'{param}' may not be read: {problem}."
    status = 403
    type = "permission_error"
    code = "media_not_allowed"


class InvalidMultipart(RequestError):
    sentence = "The multipart body cannot be read: {problem}."
    code = "invalid_multipart"


class MalformedHttp(RequestError):
    sentence = "The HTTP request could not be parsed: {problem}."
    code = "malformed_http"


class InvalidApiKey(RequestError):
    sentence = "{problem}. Send the header 'Authorization: Bearer KEY'."
    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class AdminOnly(RequestError):
    sentence = "{path} changes the server, which {problem}."
    status = 403
    type = "permission_error"
    code = "admin_only"


class PathNotAllowed(RequestError):
    sentence = "'{param}' is a folder that requests may not name: {problem}."
    status = 403
    type = "permission_error"
    code = "path_not_allowed"


class ModelNotFound(RequestError):
    sentence = "The model {name!r} does not exist here. Served: {served}."
    status = 404
    code = "model_not_found"


class AdapterNotFound(RequestError):
    sentence = "'{param}' asks for the LoRA adapter {adapter!r}, which is not loaded here. {hint}"
    status = 404
    code = "adapter_not_found"


class BatchesNotServed(RequestError):
    sentence = "This server keeps no files and batches: its operator has to start it with --data-dir."
    status = 404
    code = "batches_not_served"


class UnknownFile(RequestError):
    sentence = "There is no file {id!r}."
    status = 404
    code = "file_not_found"


class UnknownBatch(RequestError):
    sentence = "There is no batch {id!r}."
    status = 404
    code = "batch_not_found"


class RouteNotFound(RequestError):
    sentence = "There is no route {method} {path}; GET /docs lists the routes."
    status = 404
    code = "route_not_found"


class MethodNotAllowed(RequestError):
    sentence = "{path} does not take {method}; it takes {allowed}."
    status = 405
    code = "method_not_allowed"


class TooMuchToParse(RequestError):
    sentence = "The body takes more memory than there is for parsing one. Send fewer or shorter items."
    status = 413
    code = "body_too_large"


class BodyTooLarge(RequestError):
    sentence = "The request body is larger than {limit} bytes (--max-body-mb)."
    status = 413
    code = "body_too_large"


class UnsupportedMediaType(RequestError):
    sentence = "The content type is {got!r}, but it must be {expected!r}."
    status = 415
    code = "unsupported_media_type"


class RequestAborted(RequestError):
    """409, not 503: nothing is at fault here, and no load balancer should think so."""

    sentence = "The operator of the server has ended this request (/abort_request)."
    status = 409
    code = "request_aborted"
    is_final = True


class RestartInProgress(RequestError):
    sentence = "The engines are being restarted already: /server_info shows which have been."
    status = 409
    code = "restart_in_progress"


class ModelConflict(RequestError):
    sentence = "The model {name!r} {problem}."
    status = 409
    code = "model_conflict"


class FileInUse(RequestError):
    sentence = "The file {id!r} is the input of batch {batch!r}, which has not ended: cancel it first."
    status = 409
    code = "file_in_use"


class BatchHasEnded(RequestError):
    sentence = "The batch {id!r} cannot be cancelled any more: it is {status}."
    status = 409
    code = "batch_has_ended"
    is_final = True


class FileTooLarge(RequestError):
    sentence = "The file is larger than {limit} bytes (--max-batch-file-mb)."
    status = 413
    code = "file_too_large"


class ServerOverloaded(RequestError):
    sentence = "The server has too much to do and did not begin this request: {problem}. Try again in {seconds} s."
    status = 429
    type = "rate_limit_error"
    code = "server_overloaded"

    def __init__(self, *, problem: str, seconds: int) -> None:
        super().__init__(problem=problem, seconds=seconds)
        self.retry_after_seconds = seconds


class RequestTimedOut(RequestError):
    sentence = "The request did not come whole, or fast enough, within {limit:g} seconds (--receive-timeout)."
    status = 408
    code = "request_timed_out"


class HostNotAllowed(RequestError):
    sentence = (
        "This server is not known as {host!r}. Send its own name or address in the header 'Host', or start it with "
        "--allowed-hosts."
    )
    status = 421
    code = "host_not_allowed"


class HeadTooLarge(RequestError):
    sentence = "The request line and headers are larger than {limit} bytes, or there are more than {headers} headers."
    status = 431
    code = "head_too_large"


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


class ModelUnavailable(ServerFault):
    """Clients are told not to try again: it takes an operator to bring it back."""

    sentence = "The model {name!r} is unavailable: {problem}. An operator has to restart or unload it."
    status = 503
    code = "model_unavailable"
    is_final = True


class EngineLost(ServerFault):
    sentence = "The engine stopped while it worked on this request, twice or for too long. Try again shortly."
    status = 503
    code = "engine_lost"
    retry_after_seconds = 5


class EngineCrashed(ServerFault):
    """Clients are told not to send it again: each time would end two engines more."""

    sentence = "Two engines ended while they computed this request, and it is not tried again."
    code = "engine_crashed"
    is_final = True


class MediaBusy(ServerFault):
    sentence = "Too many images and videos wait to be decoded, so '{param}' was not begun. Try again shortly."
    status = 503
    code = "media_busy"
    retry_after_seconds = 2


class TooManyConnections(ServerFault):
    sentence = "The server has {limit} connections already (--max-connections). Try again shortly."
    status = 503
    code = "too_many_connections"
    retry_after_seconds = 1


class ShuttingDown(ServerFault):
    sentence = "The server is shutting down and does not finish this request. Send it to another one."
    status = 503
    code = "shutting_down"
    retry_after_seconds = 5


class BatchStorageFault(ServerFault):
    sentence = "Files and batches cannot be read or written at the moment; the server's log says why."
    status = 503
    code = "batch_storage_unavailable"
    retry_after_seconds = 30


class StorageFull(ServerFault):
    sentence = "There is no room for this: {problem}. Delete files that are not needed any more."
    status = 507
    code = "storage_full"
    is_final = True


class DeadlineExceeded(ServerFault):
    sentence = (
        "The answer was not ready within {milliseconds} ms (timeout_ms, X-Request-Timeout-Ms, --request-timeout)."
    )
    status = 504
    type = "timeout_error"
    code = "deadline_exceeded"


class StartupError(EmbedwayError):
    """A command cannot do what it was asked to; the sentence is for the operator."""

    exit_status: int = 2


class InvalidSetting(StartupError):
    sentence = "{setting}: {problem}"


class CannotCheck(StartupError):
    sentence = "cannot check {name}: {problem}"


class NotMeasurable(StartupError):
    sentence = "cannot measure {url}: {problem}"


class AddressInUse(StartupError):
    sentence = "cannot listen on {host}:{port}: {problem}. Choose another --port, or stop what uses it."


class ModelNotAvailable(StartupError):
    sentence = "cannot get the model {name!r}: {problem}"


class UnsupportedCheckpoint(StartupError):
    sentence = "cannot serve {folder}: {problem}"


class TorchNotInstalled(StartupError):
    sentence = "{what} needs {package}, which is not installed: pip install 'embedway[torch]'"


class MediaNotInstalled(StartupError):
    sentence = "{what} reads images and needs {package}, which is not installed: pip install 'embedway[media]'"


class TracingNotInstalled(StartupError):
    sentence = "--otlp-endpoint needs {package}, which is not installed: pip install 'embedway[otel]'"


class FilesNotInstalled(StartupError):
    sentence = "{what} needs {package}, which is not installed: pip install 'embedway[{extra}]'"


class InputUnreadable(StartupError):
    sentence = "cannot read {name}: {problem}"


class OutputUnwritable(StartupError):
    sentence = "cannot write {name}: {problem}. Once that is mended, the same command goes on"


class Interrupted(StartupError):
    sentence = "ended by {signal}. The same command goes on where this one ended"

    def __init__(self, number: int) -> None:
        super().__init__(signal=signal.Signals(number).name)
        self.exit_status = 128 + number


class ServerRefuses(StartupError):
    sentence = "{url} gives no vectors: {problem}. The same command goes on where this one ended"


class ClusterNotInstalled(StartupError):
    sentence = "--ray needs Ray, which is not installed: pip install 'embedway[ray]'"


class ClusterFailed(StartupError):
    sentence = "the Ray cluster cannot be used: {problem}"


class ReplicaFailed(StartupError):
    sentence = "a replica's server has failed: {problem}"


class RowFailed(StartupError):
    exit_status = 1
    sentence = "{name}, row {row}: {reason} (--fail-fast)"
