"""One tiny deterministic model at the model seam, for scheduler, fault and API tests."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedway.errors import AdapterRefused
from embedway.models.adapter_checkpoint import AdapterWeights
from embedway.models.interface import PackedBatch, PreparedAdapter
from embedway.visual import Visual

DIMENSION = 8
POISON_ID = 666
"""A sequence with this id makes the model raise."""
CRASH_ID = 668
"""A sequence with this id ends the engine's process, as a kernel that kills for memory would."""
HANG_ID = 669
"""A sequence with this id keeps the model for ever, as a kernel that never returns would."""
MEMORY_ID = 670
"""A sequence with this id asks for more memory than there is."""
NAN_ID = 667
"""A sequence with this id gets NaN."""


def fake_vector(token_ids: npt.ArrayLike, *visuals: Visual) -> npt.NDArray[np.float32]:
    """What FakeModel gives for one sequence: float32 [DIMENSION], different for different ids or another order.

    The mean of its visuals' pixels takes the place of the last number.
    """
    ids = np.asarray(token_ids, dtype=np.float64)
    places = np.arange(1, len(ids) + 1)
    values = [len(ids), ids.sum(), ids[0], ids[-1], ids @ places, ids @ places**2, (ids % 7).sum(), 1]
    values[-1] = sum(i * v.pixels.mean() for i, v in enumerate(visuals, 1)) or 1
    return np.asarray(values, dtype=np.float32)


ADAPTER_FILE = "adapter"
REFUSED, TOO_LARGE = "refused", "too large"
"""What a fake adapter's file says for the model to refuse it, or to run out of memory"""


@dataclass(frozen=True, slots=True, eq=False)
class FakeAdapter:
    """FakeModel's adapter: it adds `shift` to every number of a vector."""

    shift: np.float32

    @classmethod
    def of(cls, text: str) -> FakeAdapter:
        """That of a file which says `text`."""
        return cls.of_hash(content_hash(text))

    @classmethod
    def of_hash(cls, content_hash: str) -> FakeAdapter:
        return cls(np.float32(1 + int(content_hash[:4], 16)))


def content_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def write_fake_adapter(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / ADAPTER_FILE).write_text(text)
    return folder


def read_fake_adapter(folder: Path, *, name: str, max_rank: int | None) -> AdapterWeights:
    """In the place of `models.adapter_checkpoint.read_adapter`; its weights hold nothing but the hash."""
    del max_rank
    try:
        text = (folder / ADAPTER_FILE).read_text()
    except FileNotFoundError as error:
        raise AdapterRefused(adapter=name, problem=f"it has no file {ADAPTER_FILE!r}") from error
    if text == REFUSED:
        raise AdapterRefused(adapter=name, problem="the test says so")
    if text == TOO_LARGE:
        raise MemoryError
    return AdapterWeights(name, str(folder), content_hash(text), modules={})


class FakeModel:
    dtype = "float32"
    device = "cpu"
    dimension = DIMENSION

    def __init__(self) -> None:
        self.facts = {"backend": "numpy, for tests"}
        self.batches: list[PackedBatch] = []

    def embed(self, batch: PackedBatch) -> npt.NDArray[np.float32]:
        self.batches.append(batch)
        if POISON_ID in batch.token_ids:
            raise RuntimeError("poison")
        if CRASH_ID in batch.token_ids:
            os.kill(os.getpid(), signal.SIGKILL)
        if MEMORY_ID in batch.token_ids:
            np.empty(1 << 60, np.uint8)
        if HANG_ID in batch.token_ids:
            threading.Event().wait()
        sequences = np.split(batch.token_ids, batch.cu_seqlens[1:-1])
        vectors = np.stack([fake_vector(ids, *batch.visuals.get(i, ())) for i, ids in enumerate(sequences)])
        if batch.adapter_indices is not None:
            shifts = [shift_of(adapter) for adapter in batch.adapters] + [np.float32(0)]  # the last one for -1
            vectors += np.array(shifts)[batch.adapter_indices, None]
        vectors[[NAN_ID in ids for ids in sequences]] = np.nan
        return vectors

    def make_adapter(self, weights: AdapterWeights) -> PreparedAdapter:
        return FakeAdapter.of_hash(weights.content_hash)


def shift_of(adapter: PreparedAdapter) -> np.float32:
    assert isinstance(adapter, FakeAdapter)
    return adapter.shift
