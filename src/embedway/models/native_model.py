"""A text model over the native encoder: packed tokens → vectors, all in numpy. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, get_args

from embedway.kernels.native import PoolingMode
from embedway.models.numpy_pooling import pool

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from embedway.kernels.native import Floats, GemmType
    from embedway.model_spec import ModelSpec
    from embedway.models.dense import Dense
    from embedway.models.interface import PackedBatch


class PackedEncoder(Protocol):
    """`kernels.native.NativeEncoder`, and what stands in for it."""

    def embed(
        self,
        token_ids: npt.NDArray[np.int32],
        cu_seqlens: npt.NDArray[np.int32],
        pool_starts: npt.NDArray[np.int32],
        pooling: PoolingMode,
    ) -> Floats: ...

    def hidden_states(self, token_ids: npt.NDArray[np.int32], cu_seqlens: npt.NDArray[np.int32]) -> Floats: ...


class NativeModel:
    """Implements `interface.EmbeddingModel` over any PackedEncoder."""

    device = "cpu"

    def __init__(
        self,
        spec: ModelSpec,
        encoder: PackedEncoder,
        dense: tuple[Dense, ...],
        *,
        dtype: GemmType,
        backend: str,
    ) -> None:
        self.dtype: str = dtype
        self.dimension = spec.dimension
        self.facts = {"backend": backend}
        self.encoder = encoder
        self.dense = dense
        self.pooling = spec.pooling

    def embed(self, batch: PackedBatch) -> Floats:
        """Return float32 [n, dimension], not normalised, in the order of the batch."""
        vectors = self._pooled(batch)
        for module in self.dense:
            vectors = module(vectors)
        return vectors

    def _pooled(self, batch: PackedBatch) -> Floats:
        known = [mode for mode in get_args(PoolingMode) if self.pooling == (mode,)]
        if known:
            return self.encoder.embed(batch.token_ids, batch.cu_seqlens, batch.pool_starts, known[0])
        hidden = self.encoder.hidden_states(batch.token_ids, batch.cu_seqlens)
        return pool(hidden, batch.cu_seqlens, batch.pool_starts, self.pooling)
