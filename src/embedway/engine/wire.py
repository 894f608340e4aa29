"""The messages between processes.

Supervisor to child: one line of JSON, `EngineConfig` or `ApiConfig` (see `child_process.py`).
API process to engine and back: msgspec structs, and vectors as a second frame; ZeroMQ, DEALER (client) to ROUTER
(engine), over an `ipc://` socket in a folder of mode 0700. Arrays are little-endian int32 and float32, read in place
with `numpy.frombuffer`.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from embedway.model_spec import ModelSpec


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the supervisor tells an engine process."""

    spec: ModelSpec
    address: str
    dtype: str
    device: str
    threads: int
    """CPU threads of the model; 0: one a core."""
    max_batch_tokens: int
    target_batch_ms: float | None
    """None: by the kind of device."""
    log_level: str


class ApiConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the supervisor tells an API process."""

    settings: dict[str, Any]
    """`Settings.revealed()`"""
    spec: ModelSpec
    engine_addresses: list[str]
    socket_fd: int
    """The listening socket, inherited"""
    metrics_folder: str
    """Where all API processes count: `observability.shared_counters`"""


class Embed(msgspec.Struct, array_like=True, frozen=True):
    """A request whose sequences are to be embedded."""

    request_id: int
    priority: int
    pool_start: int
    """Leading tokens of every sequence that the pooling leaves out."""
    token_ids: bytes
    """int32 [total]"""
    cu_seqlens: bytes
    """int32 [n + 1]"""


class Requests(msgspec.Struct, tag="requests", array_like=True, frozen=True):
    """All requests of a client that came together, in one message: each message wakes two threads.

    Written by the client.
    """

    requests: list[Embed]


class Cancel(msgspec.Struct, tag="cancel", array_like=True, frozen=True):
    """Nobody waits for this request any more. Written by the client."""

    request_id: int


class Ping(msgspec.Struct, tag="ping", array_like=True, frozen=True):
    """Ask for a `Status`. Written by the client."""


class Embedded(msgspec.Struct, array_like=True, frozen=True):
    """A request that ends in its vectors."""

    request_id: int
    num_sequences: int
    queue_seconds: float
    """From arrival at the engine to the start of its first batch."""
    compute_seconds: float
    """From the start of its first batch to the end of its last one."""


class Failed(msgspec.Struct, array_like=True, frozen=True):
    """A request that ends in an error."""

    request_id: int
    code: str
    """The `code` of a class in `errors.py`."""
    item: int
    """Index of the sequence at fault."""


class Answers(msgspec.Struct, tag="answers", array_like=True, frozen=True):
    """All requests of one client that a batch ended, in one message: one each would cost more than all else.

    Frame: float32 [total, dimension], the vectors of `embedded` end to end, each in its request's order, not
    normalised. Written by the engine.
    """

    dimension: int
    embedded: list[Embedded]
    failed: list[Failed]


class Status(msgspec.Struct, tag="status", array_like=True, frozen=True, kw_only=True):
    """What the engine is and does. Written by the engine, once a `Ping`."""

    instance: str
    """A new one for every engine process: a client that sees it change knows that its requests were lost."""
    pid: int
    dtype: str
    device: str
    dimension: int
    threads: int
    load_seconds: float
    queued_requests: int
    queued_tokens: int
    batches: int
    """Batches run since the start."""
    tokens: int
    """Tokens embedded since the start."""
    sequences: int
    compute_seconds: float
    """Time spent in the model since the start."""
    mean_batch_tokens: float
    target_batch_ms: float
    """What a batch may take, by the time model, while no small requests are about."""
    batch_fixed_ms: float
    """The time model's coefficients: a batch takes fixed + per_token · tokens + per_square · Σ length²."""
    batch_ms_per_token: float
    batch_ms_per_square: float
    batch_time_error_median: float
    """|predicted - real| / real of the newest batches"""
    batch_time_error_p90: float
    facts: dict[str, str]
    """What the model says of itself: `EmbeddingModel.facts`"""


ToEngine: TypeAlias = "Requests | Cancel | Ping"
ToClient: TypeAlias = "Answers | Status"

_encoder = msgspec.msgpack.Encoder()
_to_engine = msgspec.msgpack.Decoder(Requests | Cancel | Ping)
_to_client = msgspec.msgpack.Decoder(Answers | Status)


def encode(message: ToEngine | ToClient) -> bytes:
    return _encoder.encode(message)


def decode_to_engine(frame: bytes | memoryview) -> ToEngine:
    """Raise msgspec.DecodeError on anything but a message to the engine."""
    return _to_engine.decode(frame)


def decode_to_client(frame: bytes | memoryview) -> ToClient:
    """Raise msgspec.DecodeError on anything but a message to a client."""
    return _to_client.decode(frame)
