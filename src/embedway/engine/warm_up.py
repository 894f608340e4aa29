"""The first batches after a model is loaded: they wake it up, and teach the time model what a batch costs."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from embedway.engine.batch import num_squares
from embedway.engine.batch_time_model import BatchTime, BatchTimeModel
from embedway.models.interface import EmbeddingModel, PackedBatch

WARM_UP_SECONDS = 0.25
"""No sample is begun that would end later, by the prediction so far."""
SAMPLES = (
    (1, 4),
    (1, 16),
    (1, 64),
    (8, 16),
    (1, 128),
    (4, 64),
    (24, 12),
    (2, 128),
    (1, 256),
    (2, 256),
    (64, 12),
    (8, 128),
)
"""Sequences and tokens of each, short batches first: the fixed cost, the cost of a token and that of a square"""
NUM_IDS = 500
"""Different token ids; a model with experts would send equal ones to one expert."""


def warm_up(
    model: EmbeddingModel, *, max_length: int, vocab_size: int, clock: Callable[[], float] = time.perf_counter
) -> BatchTimeModel:
    """Wake the model up and run samples for about WARM_UP_SECONDS, at least one; return a time model fitted to them.

    `clock` gives seconds. Raises what the model raises: one that cannot run these batches cannot serve.
    """
    time_model = BatchTimeModel()
    samples: list[BatchTime] = []
    model.embed(sample_batch(1, 1, vocab_size))  # what libraries do once, however long it takes
    began = clock()
    for num_sequences, length in SAMPLES:
        batch = sample_batch(num_sequences, min(length, max_length), vocab_size)
        squares = num_squares(batch)
        expected_ms = time_model.coefficients.predict(batch.num_tokens, squares)
        if clock() - began + 2 * expected_ms / 1000 > WARM_UP_SECONDS:
            break
        # Twice: what a model does once for a new size, compiling or touching memory, is no part of a batch's time.
        took = min(_milliseconds(model, batch, clock) for _ in range(2))
        samples.append(BatchTime(batch.num_tokens, squares, took))
        time_model = BatchTimeModel(samples)
    return time_model


def sample_batch(num_sequences: int, length: int, vocab_size: int) -> PackedBatch:
    token_ids = (1 + np.arange(num_sequences * length) % min(NUM_IDS, vocab_size - 1)).astype(np.int32)
    cu_seqlens = np.arange(0, len(token_ids) + 1, length, dtype=np.int32)
    return PackedBatch(token_ids, cu_seqlens, np.zeros(num_sequences, dtype=np.int32))


def _milliseconds(model: EmbeddingModel, batch: PackedBatch, clock: Callable[[], float]) -> float:
    began = clock()
    model.embed(batch)
    return (clock() - began) * 1000
