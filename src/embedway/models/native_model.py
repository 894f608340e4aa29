"""A text model over the native encoder: packed tokens → vectors, all in numpy. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, get_args

from embedway.kernels.native import PoolingMode
from embedway.models.bert_adapter import layer_adapters
from embedway.models.numpy_pooling import pool

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    import numpy.typing as npt

    from embedway.kernels.native import Floats, GemmType
    from embedway.kernels.native_adapter import LayerAdapter
    from embedway.model_spec import ModelSpec
    from embedway.models.adapter_checkpoint import AdapterWeights
    from embedway.models.bert_config import EncoderConfig
    from embedway.models.dense import Dense
    from embedway.models.interface import PackedBatch, Preemption, PreparedAdapter


class PackedEncoder(Protocol):
    """`kernels.native.NativeEncoder`, and what stands in for it. Its adapters are its own affair: `make_adapter` makes
    them, `embed` and `hidden_states` take them back."""

    def embed(
        self,
        token_ids: npt.NDArray[np.int32],
        cu_seqlens: npt.NDArray[np.int32],
        pool_starts: npt.NDArray[np.int32],
        pooling: PoolingMode,
        *,
        adapters: Sequence[Any] = (),
        adapter_indices: npt.NDArray[np.int32] | None = None,
    ) -> Floats: ...

    def hidden_states(
        self,
        token_ids: npt.NDArray[np.int32],
        cu_seqlens: npt.NDArray[np.int32],
        *,
        adapters: Sequence[Any] = (),
        adapter_indices: npt.NDArray[np.int32] | None = None,
    ) -> Floats: ...

    def make_adapter(self, layers: Sequence[LayerAdapter]) -> object: ...

    def allow_preemption(self, at: npt.NDArray[np.int64], run: Callable[[], None]) -> None: ...


class NativeModel:
    """Implements `interface.PreemptibleModel` over any PackedEncoder."""

    device = "cpu"

    def __init__(
        self,
        spec: ModelSpec,
        config: EncoderConfig,
        encoder: PackedEncoder,
        dense: tuple[Dense, ...],
        *,
        dtype: GemmType,
        backend: str,
    ) -> None:
        self.dtype: str = dtype
        self.dimension = spec.dimension
        self.facts = {"backend": backend}
        self.config = config
        self.encoder = encoder
        self.dense = dense
        self.pooling = spec.pooling

    def embed(self, batch: PackedBatch) -> Floats:
        """Return float32 [n, dimension], not normalised, in the order of the batch."""
        vectors = self._pooled(batch)
        for module in self.dense:
            vectors = module(vectors)
        return vectors

    def make_adapter(self, weights: AdapterWeights) -> PreparedAdapter:
        return self.encoder.make_adapter(layer_adapters(weights, self.config))

    def allow_preemption(self, preemption: Preemption) -> None:
        self.encoder.allow_preemption(preemption.at, preemption.run)

    def _pooled(self, batch: PackedBatch) -> Floats:
        known = [mode for mode in get_args(PoolingMode) if self.pooling == (mode,)]
        ids, ends, starts = batch.token_ids, batch.cu_seqlens, batch.pool_starts
        adapters, indices = batch.adapters, batch.adapter_indices
        if known:
            return self.encoder.embed(ids, ends, starts, known[0], adapters=adapters, adapter_indices=indices)
        hidden = self.encoder.hidden_states(ids, ends, adapters=adapters, adapter_indices=indices)
        return pool(hidden, ends, starts, self.pooling)
