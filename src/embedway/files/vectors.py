"""Items → vectors, in this process: the server's tokenizer, batches and model, for many rows at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from embedway.engine.batch import num_squares, pack
from embedway.engine.batch_time_model import BatchTime, BatchTimeModel
from embedway.engine.model_runner import ModelRunner
from embedway.engine.scheduler import QueuedRequest, Scheduler
from embedway.errors import RequestError
from embedway.files.texts import Item
from embedway.inputs.items import Items, parse_input
from embedway.inputs.request_budget import UNLIMITED
from embedway.inputs.sequences import InputOptions, SequenceMaker
from embedway.models.interface import EmbeddingModel
from embedway.packed_sequences import PackedSequences
from embedway.visual import Visual

PARAM = "text"
BLOCK = 64
"""Items that are looked at together where one of many is at fault"""


@dataclass(frozen=True, slots=True)
class Embedded:
    """What became of n items."""

    vectors: npt.NDArray[np.float32]
    """float32 [n, dimension], not normalised; zero where there is a fault"""
    faults: dict[int, str]
    """Item → why it has no vector"""
    num_tokens: int


class Vectors(Protocol):
    """Where vectors come from."""

    def prepare(self, items: Sequence[Item]) -> Any:
        """What `embed` takes. Runs in another thread, beside `embed` of the items before."""
        ...

    def embed(self, prepared: Any) -> Embedded: ...


@dataclass(frozen=True, slots=True)
class Tokenized:
    """Of `num_items`, those that could be read."""

    num_items: int
    order: npt.NDArray[np.int64]
    """int64 [n]: the item of each sequence"""
    request: QueuedRequest | None
    """The sequences, longest first: those of a batch are of about one length. None where there are none"""
    faults: dict[int, str]


class LocalVectors:
    """Implements `Vectors` with a model of this process."""

    def __init__(
        self,
        model: EmbeddingModel,
        sequences: SequenceMaker,
        options: InputOptions,
        *,
        time_model: BatchTimeModel,
        target_ms: float,
        max_batch_tokens: int,
    ) -> None:
        self._runner = ModelRunner(model)
        self._sequences = sequences
        self._options = options
        self._time_model = time_model
        self._scheduler = Scheduler[QueuedRequest](
            max_batch_tokens=max_batch_tokens, target_ms=target_ms, time_model=time_model
        )

    def prepare(self, items: Sequence[Item]) -> Tokenized:
        """Raises what holds for all items, such as UnknownPrompt."""
        faults: dict[int, str] = {}
        read = list(self._read(items, 0, faults))
        if not read:
            return Tokenized(len(items), np.empty(0, np.int64), None, faults)
        lengths = np.concatenate([sequences.lengths for _, sequences in read])
        numbers = np.concatenate([np.arange(first, first + s.num_sequences) for first, s in read])
        longest_first = np.argsort(-lengths, kind="stable")
        parts = [ids for _, s in read for ids in np.split(s.token_ids, s.cu_seqlens[1:-1])]
        visuals = {i: own for first, s in read for i, own in ((first + j, own) for j, own in s.visuals.items())}
        packed = PackedSequences.of([parts[i] for i in longest_first], pool_start=read[0][1].pool_start)
        order = numbers[longest_first]
        request = QueuedRequest(0, packed.token_ids, packed.cu_seqlens, packed.pool_start)
        request.visuals = {place: visuals[item] for place, item in enumerate(order.tolist()) if item in visuals}
        return Tokenized(len(items), order, request, faults)

    def _read(self, items: Sequence[Item], first: int, faults: dict[int, str]) -> Iterator[tuple[int, PackedSequences]]:
        """The sequences of `items`, which have numbers from `first` on, in parts: where one is at fault, the others."""
        try:
            # one by itself is called 'text', not 'text[0]': its row is what its number would be taken for
            parsed = parse_input(items[0] if len(items) == 1 else list(items), max_items=UNLIMITED, field=PARAM)
            yield first, self._sequences.make(parsed, self._options, self._visuals(parsed))
        except RequestError as error:
            if len(items) == 1:
                faults[first] = error.message
                return
            step = BLOCK if len(items) > BLOCK else 1
            for at in range(0, len(items), step):
                yield from self._read(items[at : at + step], first + at, faults)

    def _visuals(self, items: Items) -> dict[int, tuple[Visual, ...]]:
        if not items.media:
            return {}
        if self._sequences.spec.vision is None:
            items.require_text_only()
        from embedway.media.in_process import read_here

        return {i: tuple(read_here(ref, self._sequences.spec) for ref in refs) for i, refs in items.media.items()}

    def embed(self, prepared: Tokenized) -> Embedded:
        vectors = np.zeros((prepared.num_items, self._sequences.spec.dimension), np.float32)
        faults = dict(prepared.faults)
        if prepared.request is None:
            return Embedded(vectors, faults, 0)
        self._scheduler.add(prepared.request)
        batches = map(pack, iter(self._scheduler.next_batch, []))
        first, began = 0, time.perf_counter()
        for batch, outcome in self._runner.run_in_turn(batches):
            ended = time.perf_counter()
            if not outcome.was_halved:
                took_ms = (ended - began) * 1000
                self._time_model.observe(BatchTime(batch.num_tokens, num_squares(batch), took_ms))
            items = prepared.order[first : first + batch.num_sequences]
            vectors[items] = outcome.vectors
            faults.update({int(items[i]): fault(param=PARAM).message for i, fault in outcome.faults.items()})
            first, began = first + batch.num_sequences, ended
        return Embedded(vectors, faults, len(prepared.request.token_ids))
