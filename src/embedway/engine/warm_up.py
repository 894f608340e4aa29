"""The first batches after a model is loaded: they wake it up, and teach the time model what a batch costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from embedway.engine.batch import num_squares
from embedway.engine.batch_time_model import BatchTime, BatchTimeModel
from embedway.model_spec import ModelSpec
from embedway.models.interface import EmbeddingModel, PackedBatch
from embedway.models.sample_images import image_batch

TEXT_SECONDS, IMAGE_SECONDS = 0.25, 1.5
"""No sample is begun that would end later, by the prediction so far."""
TEXTS = (
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
IMAGES = (1, 2, 4, 8)
"""Images of a batch. A model that reads them is known by them: a text's token costs no more than an image's, so that a
batch of texts is at worst shorter than it might be."""
NUM_IDS = 500
"""Different token ids; a model with experts would send equal ones to one expert."""

MakeSample: TypeAlias = Callable[[], PackedBatch]


@dataclass(frozen=True, slots=True)
class Samples:
    """What a model is to run, shortest first, and for how long."""

    batches: tuple[MakeSample, ...]
    seconds: float

    @classmethod
    def of(cls, spec: ModelSpec) -> Samples:
        if spec.vision is not None:
            return cls(tuple(lambda n=count: image_batch(n, spec) for count in IMAGES), IMAGE_SECONDS)
        return cls.of_texts(max_length=spec.max_length, vocab_size=spec.vocab_size)

    @classmethod
    def of_texts(cls, *, max_length: int, vocab_size: int) -> Samples:
        def sample(count: int, length: int) -> MakeSample:
            return lambda: text_batch(count, min(length, max_length), vocab_size)

        return cls(tuple(sample(*sizes) for sizes in TEXTS), TEXT_SECONDS)


def warm_up(
    model: EmbeddingModel, samples: Samples, *, clock: Callable[[], float] = time.perf_counter
) -> BatchTimeModel:
    """Wake the model up and run samples for about their time, at least one; return a time model fitted to them.

    `clock` gives seconds. Raises what the model raises: one that cannot run these batches cannot serve.
    """
    time_model = BatchTimeModel()
    seen: list[BatchTime] = []
    batches: Iterator[PackedBatch] = (make() for make in samples.batches)
    model.embed(samples.batches[0]())  # what libraries do once, however long it takes
    began = clock()
    for batch in batches:
        squares = num_squares(batch)
        expected_ms = time_model.coefficients.predict(batch.num_tokens, squares)
        if clock() - began + 2 * expected_ms / 1000 > samples.seconds:
            break
        # Twice: what a model does once for a new size, compiling or touching memory, is no part of a batch's time.
        took = min(_milliseconds(model, batch, clock) for _ in range(2))
        seen.append(BatchTime(batch.num_tokens, squares, took))
        time_model = BatchTimeModel(seen)
    return time_model


def text_batch(num_sequences: int, length: int, vocab_size: int) -> PackedBatch:
    token_ids = (1 + np.arange(num_sequences * length) % min(NUM_IDS, vocab_size - 1)).astype(np.int32)
    cu_seqlens = np.arange(0, len(token_ids) + 1, length, dtype=np.int32)
    return PackedBatch(token_ids, cu_seqlens, np.zeros(num_sequences, dtype=np.int32))


def _milliseconds(model: EmbeddingModel, batch: PackedBatch, clock: Callable[[], float]) -> float:
    began = clock()
    model.embed(batch)
    return (clock() - began) * 1000
