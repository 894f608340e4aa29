"""A text model whole: packed tokens → hidden states → pooling → Dense modules → vectors."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from embedway.models.attention import packed_layout
from embedway.models.cuda_graphs import CudaGraphs
from embedway.models.device_copies import VectorsOnTheWay, to_device
from embedway.models.torch_adapter import AdaptedRows, TorchAdapter
from embedway.models.vector_head import VectorHead

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from embedway.model_spec import ModelSpec
    from embedway.models.adapter_checkpoint import AdapterWeights
    from embedway.models.attention import PackedLayout
    from embedway.models.dense import Dense
    from embedway.models.interface import PackedBatch, Preemption


class TokenEncoder(Protocol):
    """The transformer of a text model."""

    make_way: Callable[[], None] | None
    """To be called now and then while a batch is computed, None at first: it may call `hidden_states` for another"""

    def hidden_states(
        self, token_ids: torch.Tensor, layout: PackedLayout, adapted: Sequence[AdaptedRows] = ()
    ) -> torch.Tensor:
        """int64 [total] to [total, hidden] in a floating type of its own; rows beside `adapted` run without adapter."""
        ...

    def make_adapter(self, weights: AdapterWeights) -> TorchAdapter:
        """Raise AdapterRefused where the encoder cannot run with it."""
        ...


class TextModel:
    """Implements `interface.LaunchingModel` over any TokenEncoder, and on a CPU `interface.PreemptibleModel`."""

    def __init__(
        self,
        spec: ModelSpec,
        encoder: TokenEncoder,
        dense: tuple[Dense, ...],
        *,
        dtype: torch.dtype,
        device: torch.device,
        backend: str,
    ) -> None:
        self.dtype = str(dtype).removeprefix("torch.")
        self.device = str(device)
        self.dimension = spec.dimension
        self.facts = {"backend": backend}
        self.encoder = encoder
        self.head = VectorHead.of(spec, dense, device)
        self.graphs = CudaGraphs.of(self._forward, spec, device) if device.type == "cuda" else CudaGraphs(())
        if self.graphs.max_tokens:
            self.facts["cuda_graphs"] = f"batches of up to {self.graphs.max_tokens} tokens"

    def embed(self, batch: PackedBatch) -> npt.NDArray[np.float32]:
        """Return float32 [n, dimension], not normalised, in the order of the batch."""
        return self.launch(batch).vectors()

    @torch.inference_mode()
    def launch(self, batch: PackedBatch) -> VectorsOnTheWay:
        ordered, order = in_groups(batch)
        vectors = self.graphs.run(ordered)
        return VectorsOnTheWay(self._run(ordered) if vectors is None else vectors, order)

    def _run(self, ordered: PackedBatch) -> torch.Tensor:
        """float32 [n, dimension]"""
        device = torch.device(self.device)
        layout = packed_layout(ordered.cu_seqlens, device)
        token_ids = to_device(ordered.token_ids, device).long()
        hidden = self.encoder.hidden_states(token_ids, layout, adapted_rows(ordered))
        return self.head(hidden, layout, left_out(ordered))

    def _forward(self, token_ids: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        """Of the base model, pooling all tokens"""
        return self.head(self.encoder.hidden_states(token_ids, layout), layout, None)

    def make_adapter(self, weights: AdapterWeights) -> TorchAdapter:
        return self.encoder.make_adapter(weights)

    def allow_preemption(self, preemption: Preemption) -> None:
        self.encoder.make_way = preemption.make_way


def in_groups(batch: PackedBatch) -> tuple[PackedBatch, npt.NDArray[np.intp]]:
    """The batch in a better order, and where each sequence came from.

    The sequences of one adapter are neighbours, those without one first; among them the shortest is first, so that
    equal lengths are neighbours.
    """
    lengths, adapters = np.diff(batch.cu_seqlens), batch.adapter_indices
    order = np.argsort(lengths, kind="stable") if adapters is None else np.lexsort((lengths, adapters))
    if np.array_equal(order, np.arange(len(order))):
        return batch, order
    cu_seqlens = np.concatenate(([0], np.cumsum(lengths[order]))).astype(np.int32)
    shift = np.repeat(batch.cu_seqlens[:-1][order] - cu_seqlens[:-1], lengths[order])
    rows = np.arange(batch.num_tokens, dtype=np.int32) + shift
    ordered = replace(
        batch,
        token_ids=batch.token_ids[rows],
        cu_seqlens=cu_seqlens,
        pool_starts=batch.pool_starts[order],
        adapter_indices=None if adapters is None else adapters[order],
        visuals={new: batch.visuals[old] for new, old in enumerate(order.tolist()) if old in batch.visuals},
    )
    return ordered, order


def left_out(batch: PackedBatch) -> npt.NDArray[np.int32] | None:
    """The batch's `pool_starts`; None where the pooling leaves out nothing, as nearly always."""
    return batch.pool_starts if batch.pool_starts.any() else None


def adapted_rows(batch: PackedBatch) -> tuple[AdaptedRows, ...]:
    """Each adapter's slice of a batch that is in groups."""
    if batch.adapter_indices is None:
        return ()
    adapted = []
    for i in np.unique(batch.adapter_indices[batch.adapter_indices >= 0]):
        adapter = batch.adapters[i]
        assert isinstance(adapter, TorchAdapter)
        first, last = np.searchsorted(batch.adapter_indices, [i, i + 1])
        adapted.append(AdaptedRows(int(batch.cu_seqlens[first]), int(batch.cu_seqlens[last]), adapter))
    return tuple(adapted)
