"""Batch → vectors, with every fault pinned to the sequence that caused it."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedway.engine.batch import split
from embedway.errors import ItemFailed, NonFiniteVector, ServerFault
from embedway.models.interface import EmbeddingModel, PackedBatch

logger = logging.getLogger("embedway.engine")


@dataclass(frozen=True, slots=True)
class BatchOutcome:
    """What became of a batch of n sequences."""

    vectors: npt.NDArray[np.float32]
    """float32 [n, dimension]; the rows named in `faults` are zero"""
    faults: dict[int, type[ServerFault]]
    """Sequence index → what went wrong with it"""


class ModelRunner:
    """Runs one model.

    A batch that raises is halved until the sequence at fault stands alone; its neighbours get their vectors.
    """

    def __init__(self, model: EmbeddingModel) -> None:
        self._model = model

    def run(self, batch: PackedBatch) -> BatchOutcome:
        vectors = np.zeros((batch.num_sequences, self._model.dimension), dtype=np.float32)
        faults: dict[int, type[ServerFault]] = {}
        self._run_into(vectors, batch, 0, faults)
        for i in np.flatnonzero(~np.isfinite(vectors).all(axis=1)):
            logger.error(
                "the model gave a vector that is not finite for a sequence of %d tokens", _length(batch, int(i))
            )
            faults[int(i)] = NonFiniteVector
            vectors[i] = 0
        return BatchOutcome(vectors, faults)

    def _run_into(
        self, vectors: npt.NDArray[np.float32], batch: PackedBatch, first: int, faults: dict[int, type[ServerFault]]
    ) -> None:
        try:
            vectors[first : first + batch.num_sequences] = self._model.embed(batch)
        except Exception:
            if batch.num_sequences == 1:
                logger.exception("the model failed on a sequence of %d tokens", batch.num_tokens)
                faults[first] = ItemFailed
                return
            logger.warning("the model failed on a batch of %d sequences: halving it", batch.num_sequences)
            middle = batch.num_sequences // 2
            left, right = split(batch, middle)
            self._run_into(vectors, left, first, faults)
            self._run_into(vectors, right, first + middle, faults)


def _length(batch: PackedBatch, i: int) -> int:
    return int(batch.cu_seqlens[i + 1] - batch.cu_seqlens[i])
