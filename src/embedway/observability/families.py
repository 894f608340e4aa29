"""Every metric family once: its name, type, buckets and help. What is counted has a name in this table."""

from __future__ import annotations

from typing import Literal, NamedTuple

REQUESTS, LATENCY = "embedway_requests_total", "embedway_request_seconds"
STAGES = "embedway_stage_seconds"
IN_PROGRESS = "embedway_requests_in_progress"
ITEMS, TOKENS = "embedway_items_total", "embedway_prompt_tokens_total"
REFUSALS, ENDS = "embedway_requests_refused_total", "embedway_requests_ended_total"
BATCH_LINES = "embedway_batch_lines_total"
ADMITTED_REQUESTS, ADMITTED_TOKENS = "embedway_admitted_requests", "embedway_admitted_tokens"
ADMISSION_LIMIT = "embedway_admission_limit_tokens"

MEDIA, MEDIA_FAILURES = "embedway_media_seconds", "embedway_media_failures_total"
MEDIA_CACHE_HITS, MEDIA_CACHE_BYTES = "embedway_media_cache_hits_total", "embedway_media_cache_bytes"
MEDIA_HELD_BYTES = "embedway_media_held_bytes"

BATCH_TOKENS, BATCH_SEQUENCES = "embedway_batch_tokens", "embedway_batch_sequences"
BATCH_SECONDS, BATCH_PREDICTION = "embedway_batch_seconds", "embedway_batch_predicted_ratio"
CACHE_HITS, COALESCED = "embedway_engine_cache_hits_total", "embedway_engine_coalesced_sequences_total"
EXPIRED = "embedway_engine_expired_requests_total"
ENGINE_READY, ENGINE_INFO = "embedway_engine_ready", "embedway_engine_info"

RESTARTS = "embedway_process_restarts_total"
MEMORY = "embedway_process_resident_memory_bytes"
BUILD = "embedway_build_info"

LATENCY_BUCKETS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64)
STAGE_BUCKETS = (0.00005, 0.0001, 0.00025, 0.0005, *LATENCY_BUCKETS)
BATCH_TOKENS_BUCKETS = tuple(2**power for power in range(3, 15))
BATCH_SEQUENCES_BUCKETS = tuple(2**power for power in range(12))
RATIO_BUCKETS = (0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 1, 1.05, 1.1, 1.25, 1.5, 2, 4)


class Family(NamedTuple):
    kind: Literal["counter", "gauge", "histogram"]
    """A gauge is a process's own, and gone with it; what is counted stays"""
    text: str
    buckets: tuple[float, ...] = ()
    """Upper bounds, of a histogram"""


FAMILIES = {
    REQUESTS: Family("counter", "HTTP requests by route and status; status 0: the client went away."),
    LATENCY: Family(
        "histogram", "Seconds from the first byte of a request to the last one of its answer.", LATENCY_BUCKETS
    ),
    STAGES: Family(
        "histogram",
        "Seconds of a request's stages: parse, media, tokenize (waiting for a thread included), queue and compute at "
        "the engine, encode.",
        STAGE_BUCKETS,
    ),
    IN_PROGRESS: Family("gauge", "HTTP requests now."),
    REFUSALS: Family("counter", "Requests refused for overload, by class, and by what there was too much of."),
    ENDS: Family("counter", "Requests that ended before their answers: by a disconnect, a deadline or an abort."),
    ITEMS: Family("counter", "Items embedded."),
    TOKENS: Family("counter", "Tokens of the items embedded, whether computed or known."),
    BATCH_LINES: Family("counter", "Requests of the Batch API that are over, by outcome: completed or failed."),
    ADMITTED_REQUESTS: Family("gauge", "Requests that are admitted and not answered yet, by class."),
    ADMITTED_TOKENS: Family("gauge", "Tokens of those requests."),
    ADMISSION_LIMIT: Family("gauge", "Tokens that may be admitted at once; +Inf where the engines' speed is unknown."),
    MEDIA: Family(
        "histogram", "Seconds to get (open) and to decode an image or a video, waiting included.", LATENCY_BUCKETS
    ),
    MEDIA_FAILURES: Family("counter", "Images and videos that could not be opened or decoded, by error code."),
    MEDIA_CACHE_HITS: Family("counter", "Images and videos whose pixels were still there from an earlier request."),
    MEDIA_CACHE_BYTES: Family("gauge", "Bytes of decoded images and videos that are kept for later requests."),
    MEDIA_HELD_BYTES: Family("gauge", "Bytes of media that requests in progress hold, by estimate until decoded."),
    BATCH_TOKENS: Family("histogram", "Tokens of each batch: the sum is what the engines ran.", BATCH_TOKENS_BUCKETS),
    BATCH_SEQUENCES: Family("histogram", "Sequences of each batch.", BATCH_SEQUENCES_BUCKETS),
    BATCH_SECONDS: Family(
        "histogram", "Seconds of each batch: the sum is the time that the model was busy.", STAGE_BUCKETS
    ),
    BATCH_PREDICTION: Family("histogram", "Predicted time of each batch divided by its real time.", RATIO_BUCKETS),
    CACHE_HITS: Family("counter", "Sequences that were not computed, for their vectors were cached."),
    COALESCED: Family("counter", "Sequences that were not computed, for an equal one was in their batch."),
    EXPIRED: Family("counter", "Requests dropped from the queue, for their deadlines had come."),
    ENGINE_READY: Family("gauge", "1 where the engine is ready."),
    ENGINE_INFO: Family("gauge", "1, with the engine's number and the name of its model in labels."),
    "embedway_engine_queued_requests": Family("gauge", "Requests that wait in the engine."),
    "embedway_engine_queued_tokens": Family("gauge", "Tokens that wait in the engine."),
    "embedway_engine_parked_requests": Family("gauge", "Requests that wait for an adapter to be loaded."),
    "embedway_engine_adapters": Family("gauge", "LoRA adapters that are loaded."),
    "embedway_engine_cached_vectors": Family("gauge", "Vectors in the cache."),
    "embedway_engine_cache_bytes": Family("gauge", "Bytes of the cache that are in use, keys included."),
    "embedway_engine_load_seconds": Family("gauge", "Seconds that loading the model took."),
    "embedway_engine_target_batch_seconds": Family("gauge", "What a batch may take, unless many small requests wait."),
    "embedway_engine_batch_fixed_ms": Family("gauge", "Predicted milliseconds of a batch, whatever is in it."),
    "embedway_engine_batch_ms_per_token": Family("gauge", "Predicted milliseconds that a token adds to a batch."),
    "embedway_engine_batch_ms_per_square": Family("gauge", "Predicted milliseconds per square of a sequence's length."),
    "embedway_engine_batch_time_error_median": Family(
        "gauge", "Median of |predicted - real| / real of the newest batches."
    ),
    "embedway_engine_batch_time_error_p90": Family("gauge", "90th percentile of the same."),
    RESTARTS: Family(
        "counter", "Processes that were replaced, by what ended the one before: exit, signal, hang or rolling."
    ),
    MEMORY: Family("gauge", "Resident memory of the server's processes, by kind (Linux only)."),
    BUILD: Family("gauge", "1, with the version in a label."),
}
"""In the order of the answer"""


def family_of(sample: str) -> str:
    """The family of a sample, which is given by its name, labels included."""
    name = sample.partition("{")[0]
    return name if name in FAMILIES else name.removesuffix("_bucket").removesuffix("_sum")


def is_gauge(sample: str) -> bool:
    return FAMILIES[family_of(sample)].kind == "gauge"
