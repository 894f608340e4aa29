"""One tiny deterministic model at the model seam, for scheduler, fault and API tests."""

from __future__ import annotations

import os
import signal

import numpy as np
import numpy.typing as npt

from embedway.models.interface import PackedBatch

DIMENSION = 8
POISON_ID = 666
"""A sequence with this id makes the model raise."""
CRASH_ID = 668
"""A sequence with this id ends the engine's process, as a kernel that kills for memory would."""
NAN_ID = 667
"""A sequence with this id gets NaN."""


def fake_vector(token_ids: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """What FakeModel gives for one sequence: float32 [DIMENSION], different for different ids or another order."""
    ids = np.asarray(token_ids, dtype=np.float64)
    places = np.arange(1, len(ids) + 1)
    values = [len(ids), ids.sum(), ids[0], ids[-1], ids @ places, ids @ places**2, (ids % 7).sum(), 1]
    return np.asarray(values, dtype=np.float32)


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
        sequences = np.split(batch.token_ids, batch.cu_seqlens[1:-1])
        vectors = np.stack([fake_vector(ids) for ids in sequences])
        vectors[[NAN_ID in ids for ids in sequences]] = np.nan
        return vectors
