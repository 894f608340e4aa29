"""Batch → vectors, with every fault pinned to the sequence that caused it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from embedway.engine.batch import split
from embedway.errors import ItemFailed, NonFiniteVector, ServerFault
from embedway.models.devices import is_device_lost
from embedway.models.interface import EmbeddingModel, LaunchingModel, PackedBatch, PreemptibleModel, Preemption

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


class BatchRun(NamedTuple):
    """A batch that was given to a model."""

    is_done: Callable[[], bool]
    """Whether `outcome` is there without the device's having to be waited for. A model without `launch` does its work
    in `outcome`."""
    outcome: Callable[[], BatchOutcome]
    """To be called once. Raises what says that the device is lost."""


class ModelRunner:
    """Runs one model.

    A batch that raises is halved until the sequence at fault stands alone; its neighbours get their vectors.
    """

    def __init__(self, model: EmbeddingModel) -> None:
        self._model = model
        self._preemptible = model if isinstance(model, PreemptibleModel) and model.device == "cpu" else None
        self._launching = model if isinstance(model, LaunchingModel) and not self._preemptible else None

    @property
    def is_preemptible(self) -> bool:
        """Whether batches can make way for others."""
        return self._preemptible is not None

    def allow_preemption(self, preemption: Preemption) -> None:
        """Have batches make way from now on, while `BatchRun.outcome` computes them. They are preemptible."""
        assert self._preemptible is not None
        self._preemptible.allow_preemption(preemption)

    def run_in_turn(self, batches: Iterable[PackedBatch]) -> Iterator[tuple[PackedBatch, BatchOutcome]]:
        """Each batch with its outcome; the next is begun before that, so that a device never waits for the caller."""
        begun: tuple[PackedBatch, BatchRun] | None = None
        for batch in batches:
            following = (batch, self.begin(batch))
            if begun is not None:
                yield begun[0], begun[1].outcome()
            begun = following
        if begun is not None:
            yield begun[0], begun[1].outcome()

    def begin(self, batch: PackedBatch) -> BatchRun:
        """Give a batch to the model, behind those that run. Raises what says that the device is lost."""
        if self._launching is not None:
            try:
                launched = self._launching.launch(batch)
            except Exception as error:
                if is_device_lost(error):
                    raise
                logger.warning("a batch of %d sequences could not be launched: %r", batch.num_sequences, error)
            else:
                return BatchRun(launched.is_done, partial(self._outcome, batch, launched.vectors))
        return BatchRun(lambda: True, partial(self._outcome, batch, partial(self._model.embed, batch)))

    def _outcome(self, batch: PackedBatch, embed: Callable[[], npt.NDArray[np.float32]]) -> BatchOutcome:
        outcome = self._in_parts(batch, embed)
        is_finite = np.isfinite(outcome.vectors)
        if not is_finite.all():
            for i in np.flatnonzero(~is_finite.all(axis=1)).tolist():
                logger.error(
                    "the model gave a vector that is not finite for a sequence of %d tokens", _length(batch, i)
                )
                outcome.faults[i] = NonFiniteVector
                outcome.vectors[i] = 0
        return outcome

    def _in_parts(self, batch: PackedBatch, embed: Callable[[], npt.NDArray[np.float32]]) -> BatchOutcome:
        """The whole batch's vectors, from `embed`, or where that raises those of each half. Raises what says that the
        device is lost."""
        try:
            return BatchOutcome(embed(), {}, was_halved=False)
        except Exception as error:
            if is_device_lost(error):  # this process can compute nothing more; its successor can
                raise
            if batch.num_sequences == 1:
                logger.exception("the model failed on a sequence of %d tokens", batch.num_tokens)
                return BatchOutcome(np.zeros((1, self._model.dimension), np.float32), {0: ItemFailed}, was_halved=True)
        logger.warning("the model failed on a batch of %d sequences: halving it", batch.num_sequences)
        middle = batch.num_sequences // 2
        left, right = (self._in_parts(half, partial(self._model.embed, half)) for half in split(batch, middle))
        faults = {**left.faults, **{middle + i: fault for i, fault in right.faults.items()}}
        return BatchOutcome(np.concatenate([left.vectors, right.vectors]), faults, was_halved=True)


def _length(batch: PackedBatch, i: int) -> int:
    return int(batch.cu_seqlens[i + 1] - batch.cu_seqlens[i])
