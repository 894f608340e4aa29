"""Batch → vectors, with every fault pinned to the sequence that caused it."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedway.engine.batch import split
from embedway.errors import ItemFailed, NonFiniteVector, ServerFault
from embedway.models.devices import is_device_lost
from embedway.models.interface import EmbeddingModel, PackedBatch

logger = logging.getLogger("embedway.engine")


@dataclass(frozen=True, slots=True)
class BatchOutcome:
    """What became of a batch of n sequences."""

    vectors: npt.NDArray[np.float32]
    """float32 [n, dimension]; the rows named in `faults` are zero"""
    faults: dict[int, type[ServerFault]]
    """Sequence index → what went wrong with it"""
    was_halved: bool
    """The model raised, and ran again on parts: the time it took is no batch's."""


class ModelRunner:
    """Runs one model.

    A batch that raises is halved until the sequence at fault stands alone; its neighbours get their vectors.
    """

    def __init__(self, model: EmbeddingModel) -> None:
        self._model = model

    def run(self, batch: PackedBatch) -> BatchOutcome:
        outcome = self._run_parts(batch)
        is_finite = np.isfinite(outcome.vectors)
        if not is_finite.all():
            for i in np.flatnonzero(~is_finite.all(axis=1)).tolist():
                logger.error(
                    "the model gave a vector that is not finite for a sequence of %d tokens", _length(batch, i)
                )
                outcome.faults[i] = NonFiniteVector
                outcome.vectors[i] = 0
        return outcome

    def _run_parts(self, batch: PackedBatch) -> BatchOutcome:
        """Run the whole batch, or where that raises each of its halves. Raises what says that the device is lost."""
        try:
            return BatchOutcome(self._model.embed(batch), {}, was_halved=False)
        except Exception as error:
            if is_device_lost(error):  # this process can compute nothing more; its successor can
                raise
            if batch.num_sequences == 1:
                logger.exception("the model failed on a sequence of %d tokens", batch.num_tokens)
                return BatchOutcome(np.zeros((1, self._model.dimension), np.float32), {0: ItemFailed}, was_halved=True)
        logger.warning("the model failed on a batch of %d sequences: halving it", batch.num_sequences)
        middle = batch.num_sequences // 2
        left, right = map(self._run_parts, split(batch, middle))
        faults = {**left.faults, **{middle + i: fault for i, fault in right.faults.items()}}
        return BatchOutcome(np.concatenate([left.vectors, right.vectors]), faults, was_halved=True)


def _length(batch: PackedBatch, i: int) -> int:
    return int(batch.cu_seqlens[i + 1] - batch.cu_seqlens[i])
