"""A batch in the midst of another one, on a model that makes way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embedway.models.interface import PreemptibleModel, Preemption

if TYPE_CHECKING:
    import numpy.typing as npt

    from embedway.models.interface import EmbeddingModel, PackedBatch

NEVER = np.iinfo(np.int64).max


class Midst:
    """Runs a batch in the midst of another as often as the model allows."""

    def __init__(self, model: EmbeddingModel, other: PackedBatch) -> None:
        assert isinstance(model, PreemptibleModel)
        self.model, self.other = model, other
        self.vectors: list[npt.NDArray[np.float32]] = []
        self.at = np.full(1, NEVER)
        model.allow_preemption(Preemption(self.at, self._run))

    def embed(self, batch: PackedBatch) -> npt.NDArray[np.float32]:
        self.at[0] = 0
        try:
            return self.model.embed(batch)
        finally:
            self.at[0] = NEVER

    def _run(self) -> None:
        self.at[0] = NEVER
        self.vectors.append(self.model.embed(self.other))
        self.at[0] = 0
