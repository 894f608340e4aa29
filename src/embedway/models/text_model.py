"""A text model whole: packed tokens → hidden states → pooling → Dense modules → vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from embedway.models.attention import packed_layout
from embedway.models.interface import PackedBatch
from embedway.models.pooling import pool
from embedway.models.torch_dense import TorchDense

if TYPE_CHECKING:
    import numpy.typing as npt

    from embedway.model_spec import ModelSpec
    from embedway.models.attention import PackedLayout
    from embedway.models.dense import Dense


class TokenEncoder(Protocol):
    """The transformer of a text model."""

    def hidden_states(self, token_ids: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        """int64 [total] to [total, hidden] in a floating type of its own"""
        ...


class TextModel:
    """Implements `interface.EmbeddingModel` over any TokenEncoder."""

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
        self.dense = [TorchDense.of(module, device) for module in dense]
        self.pooling = spec.pooling

    @torch.inference_mode()
    def embed(self, batch: PackedBatch) -> npt.NDArray[np.float32]:
        """Return float32 [n, dimension], not normalised, in the order of the batch."""
        ordered, order = by_length(batch)
        device = torch.device(self.device)
        layout = packed_layout(ordered.cu_seqlens, device)
        token_ids = torch.as_tensor(ordered.token_ids).to(device, torch.int64)
        hidden = self.encoder.hidden_states(token_ids, layout)
        vectors = pool(hidden, layout, torch.as_tensor(ordered.pool_starts).to(device), self.pooling)
        for module in self.dense:
            vectors = module(vectors)
        result = np.empty((batch.num_sequences, vectors.shape[1]), np.float32)
        result[order] = vectors.cpu().numpy()
        return result


def by_length(batch: PackedBatch) -> tuple[PackedBatch, npt.NDArray[np.intp]]:
    """The batch with its sequences shortest first, so that equal lengths are neighbours, and where each came from."""
    lengths = np.diff(batch.cu_seqlens)
    order = np.argsort(lengths, kind="stable")
    if np.array_equal(order, np.arange(len(order))):
        return batch, order
    cu_seqlens = np.concatenate(([0], np.cumsum(lengths[order]))).astype(np.int32)
    shift = np.repeat(batch.cu_seqlens[:-1][order] - cu_seqlens[:-1], lengths[order])
    rows = np.arange(batch.num_tokens, dtype=np.int32) + shift
    return PackedBatch(batch.token_ids[rows], cu_seqlens, batch.pool_starts[order]), order
