"""An engine process whose model costs nothing, so that what is measured is all around it: `benchmarks.api_process`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from embedway.engine.loop import EngineIdentity, main
from embedway.engine.wire import EngineConfig
from embedway.errors import AdapterRefused
from embedway.models.adapter_checkpoint import AdapterWeights
from embedway.models.interface import PackedBatch, PreparedAdapter


class FreeModel:
    """The same unit vector for every sequence."""

    dtype = "float32"
    device = "cpu"

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self.facts: dict[str, str] = {}
        vector = np.random.default_rng(0).standard_normal(dimension, dtype=np.float32)
        self._vectors = np.tile(vector / np.linalg.norm(vector), (4096, 1)).astype(np.float32)

    def embed(self, batch: PackedBatch) -> npt.NDArray[np.float32]:
        return self._vectors[: batch.num_sequences]

    def make_adapter(self, weights: AdapterWeights) -> PreparedAdapter:
        raise AdapterRefused(adapter=weights.name, problem="this model has no layers")


def load(config: EngineConfig) -> EngineIdentity:
    return EngineIdentity(FreeModel(config.spec.dimension), threads=1, load_seconds=0.0)


if __name__ == "__main__":
    main(load)
