"""The messages between processes.

Supervisor to child: one line of JSON, `EngineConfig` or `ApiConfig` (see `child_process.py`).
API process to engine and back: msgspec structs, and vectors as a second frame (`channel.py`), over a Unix socket in a
folder of mode 0700. Arrays are little-endian int32 and float32, read in place with `numpy.frombuffer`.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import msgspec

from embedway.adapter_ref import AdapterRef
from embedway.api_keys import ApiKeys
from embedway.model_spec import ModelSpec
from embedway.visual import MediaKind


class AdapterSource(msgspec.Struct, frozen=True):
    """A LoRA adapter that nobody has read yet."""

    name: str
    source: str
    """A folder, or a Hugging Face id"""
    pinned: bool = False


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
    log_format: str = "pretty"
    shares_by_key: bool = False
    """Whether API keys share its time; else requests do"""
    adapters: list[AdapterSource] = []
    """To be loaded before the engine is ready"""
    max_loaded_loras: int | None = None
    max_lora_rank: int | None = None
    download_dir: str | None = None
    """For adapters from the Hub; None: the Hub's own cache."""
    cache_mb: int = 0
    """MiB of vectors that are kept; 0: none, and every sequence is computed"""
    replica: int = 0
    """Which of the server's engines it is"""
    metrics_folder: str | None = None
    """Where all processes count: `observability.shared_counters`; None: nobody reads what this one counts"""


class ApiConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the supervisor tells an API process."""

    settings: dict[str, Any]
    """`Settings.for_api_process()`"""
    keys: ApiKeys
    models_file: str
    """Says which models there are: `supervisor_words.read_models`"""
    socket_fd: int
    """The listening socket, inherited"""
    metrics_folder: str
    """Where all processes count: `observability.shared_counters`"""


class EmbedAdapters(msgspec.Struct, array_like=True, frozen=True):
    """The LoRA adapters that a request's sequences run with."""

    refs: list[AdapterRef]
    indices: bytes
    """int32 [n]: each sequence's place in `refs`, -1 for the base model"""


class EmbedVisual(msgspec.Struct, array_like=True, frozen=True):
    """An image or a video of one of a request's sequences: `visual.Visual`."""

    sequence: int
    kind: MediaKind
    shape: tuple[int, int, int]
    """frames, height, width"""
    pixels: memoryview
    """uint8 [frames, height, width, 3]"""
    num_tokens: int
    timestamps: tuple[float, ...]


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
    adapters: EmbedAdapters | None = None
    visuals: list[EmbedVisual] = []
    """By sequence, and in the order in which they stand in it"""
    timeout_ms: float | None = None
    """From now: what has not run by then is dropped unanswered, for the client tells its own client by its own clock"""
    fresh: bool = False
    """Nothing that was computed for others is to answer it: it asks whether the model works"""
    key_number: int = 0
    """Whose it is: `api_keys.ApiKeys` numbers them"""
    whole_tokens: int = 0
    """Of the request that it is a part of; 0 where it is whole"""


class Requests(msgspec.Struct, tag="requests", array_like=True, frozen=True):
    """All requests of a client that came together, in one message: each message wakes two threads.

    Written by the client.
    """

    requests: list[Embed]


class Cancel(msgspec.Struct, tag="cancel", array_like=True, frozen=True):
    """Nobody waits for these requests any more. Written by the client."""

    request_ids: list[int]


class Abort(msgspec.Struct, tag="abort", array_like=True, frozen=True):
    """An operator ends requests, whichever client has them: the engine passes it on to all its other clients."""

    http_request_id: str | None
    """None: all requests"""


class Ping(msgspec.Struct, tag="ping", array_like=True, frozen=True):
    """Ask for a `Status`. Written by the client."""


class LoadAdapter(msgspec.Struct, tag="load_adapter", array_like=True, frozen=True):
    """Read this adapter, anew if need be: ends in `AdapterLoaded` or `AdapterRefusal`. Written by the client."""

    request_id: int
    adapter: AdapterSource


class UnloadAdapter(msgspec.Struct, tag="unload_adapter", array_like=True, frozen=True):
    """Let go of what was loaded under this name and hash: ends in `AdapterUnloaded`. Requests that hold it finish.

    Written by the client.
    """

    request_id: int
    name: str
    content_hash: str


class FlushCache(msgspec.Struct, tag="flush_cache", array_like=True, frozen=True):
    """Forget all vectors: ends in `CacheFlushed`. Written by the client."""

    request_id: int


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


class AdapterLoaded(msgspec.Struct, tag="adapter_loaded", array_like=True, frozen=True):
    """The end of a `LoadAdapter`. Written by the engine."""

    request_id: int
    ref: AdapterRef
    is_new: bool
    """It was not loaded under this name before."""


class AdapterRefusal(msgspec.Struct, tag="adapter_refusal", array_like=True, frozen=True):
    """The end of a `LoadAdapter`, or of an `Embed` whose adapter was to be loaded for it. Written by the engine."""

    request_id: int
    adapter: str
    problem: str
    """Both as `errors.AdapterRefused` takes them"""


class AdapterUnloaded(msgspec.Struct, tag="adapter_unloaded", array_like=True, frozen=True):
    """The end of an `UnloadAdapter`. Written by the engine."""

    request_id: int


class CacheFlushed(msgspec.Struct, tag="cache_flushed", array_like=True, frozen=True):
    """The end of a `FlushCache`. Written by the engine."""

    request_id: int


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
    parked_requests: int
    """Those that are to be queued once an adapter is loaded for them"""
    expired_requests: int
    """Dropped since the start, for their deadlines had come"""
    batches: int
    """Batches run since the start."""
    tokens: int
    """Tokens embedded since the start."""
    sequences: int
    cache_hits: int
    """Sequences since the start that were not computed, for their vectors were in the cache"""
    coalesced_sequences: int
    """Those that were not computed, for an equal one was in their batch"""
    cached_vectors: int
    """In the cache now"""
    cache_bytes: int
    """Of it that is in use, keys included"""
    compute_seconds: float
    """Time spent in the model since the start."""
    mean_batch_tokens: float
    target_batch_ms: float
    """What a batch may take, by the time model, unless many small requests wait"""
    batch_fixed_ms: float
    """The time model's coefficients: a batch takes fixed + per_token · tokens + per_square · Σ length²."""
    batch_ms_per_token: float
    batch_ms_per_square: float
    batch_time_error_median: float
    """|predicted - real| / real of the newest batches"""
    batch_time_error_p90: float
    facts: dict[str, str]
    """What the model says of itself: `EmbeddingModel.facts`"""
    adapters: list[AdapterRef]
    """Those that are loaded now, one for each name"""

    @property
    def tokens_per_second(self) -> float:
        """In full batches of sequences of the usual length, by the time model; infinite before it has learned.

        A full batch's fixed cost is at most a tenth of it, and left out.
        """
        mean_length = self.tokens / max(1, self.sequences)
        milliseconds = self.batch_ms_per_token + self.batch_ms_per_square * mean_length
        return 1000 / milliseconds if milliseconds else math.inf


class Retiring(msgspec.Struct, tag="retiring", array_like=True, frozen=True):
    """This engine has a successor at its address, and ends once all clients have left. Written by the engine."""


ToEngine: TypeAlias = Requests | Cancel | Abort | LoadAdapter | UnloadAdapter | FlushCache | Ping
ToClient: TypeAlias = (
    Answers | AdapterLoaded | AdapterRefusal | AdapterUnloaded | CacheFlushed | Abort | Retiring | Status
)

_encoder = msgspec.msgpack.Encoder()
_to_engine = msgspec.msgpack.Decoder(ToEngine)
_to_client = msgspec.msgpack.Decoder(ToClient)


def encode(message: ToEngine | ToClient) -> bytes:
    return _encoder.encode(message)


def decode_to_engine(frame: bytes | memoryview) -> ToEngine:
    """Raise msgspec.DecodeError on anything but a message to the engine."""
    return _to_engine.decode(frame)


def decode_to_client(frame: bytes | memoryview) -> ToClient:
    """Raise msgspec.DecodeError on anything but a message to a client."""
    return _to_client.decode(frame)
