"""A dual encoder whole: CLIP, SigLIP, SigLIP2. A tower for texts and one for images, whose vectors are comparable.

A sequence is the ids of its text and VISUAL_TOKEN where its images and videos stand. What has one part, a text or an
image, has that tower's vector as it is; a video is the mean of its frames' unit vectors, and several parts are the mean
of theirs, both made unit length again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from embedway.errors import AdapterRefused
from embedway.models.torch_dense import TorchDense

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from embedway.kernels.native import Floats
    from embedway.models.adapter_checkpoint import AdapterWeights
    from embedway.models.dense import Dense
    from embedway.models.image_tower import ImageTower
    from embedway.models.interface import PackedBatch, Preemption, PreparedAdapter
    from embedway.models.text_tower import TextTower
    from embedway.visual import Visual


class Parts(NamedTuple):
    """A batch taken apart. Every text and visual names the sequence that it is of."""

    texts: list[npt.NDArray[np.int32]]
    text_sequences: list[int]
    visuals: list[Visual]
    visual_sequences: list[int]


def take_apart(batch: PackedBatch) -> Parts:
    """Texts and visuals, each in the order of the batch."""
    parts = Parts([], [], [], [])
    for i in range(batch.num_sequences):
        ids = batch.token_ids[batch.cu_seqlens[i] : batch.cu_seqlens[i + 1]]
        text = ids[ids >= 0] if i in batch.visuals else ids
        if len(text):
            parts.texts.append(text)
            parts.text_sequences.append(i)
        for visual in batch.visuals.get(i, ()):
            parts.visuals.append(visual)
            parts.visual_sequences.append(i)
    return parts


def unit(vectors: Floats) -> Floats:
    """[…, dimension] to unit length; zeros stay zeros."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), np.finfo(np.float32).tiny)


def merged(vectors: Floats) -> Floats:
    """[n, dimension] to [dimension]: one as it is, several as the mean of their unit vectors, made unit length again"""
    return vectors[0] if len(vectors) == 1 else unit(unit(vectors).mean(axis=0))


class DualEncoder:
    """Implements `interface.EmbeddingModel`, and on a CPU `interface.PreemptibleModel`."""

    def __init__(
        self, text_tower: TextTower, image_tower: ImageTower, dense: Sequence[Dense], *, dimension: int, backend: str
    ) -> None:
        self.text_tower, self.image_tower = text_tower, image_tower
        self.dtype = str(text_tower.tower.dtype).removeprefix("torch.")
        self.device = str(text_tower.device)
        self.dimension = dimension
        self.facts = {"backend": backend}
        self.dense = [TorchDense.of(module, text_tower.device) for module in dense]

    @torch.inference_mode()
    def embed(self, batch: PackedBatch) -> Floats:
        """Return float32 [n, dimension] in the order of the batch; see the top for which are of unit length."""
        parts = take_apart(batch)
        vectors: list[list[Floats]] = [[] for _ in range(batch.num_sequences)]
        if parts.texts:
            for i, vector in zip(parts.text_sequences, self._projected(self.text_tower(parts.texts)), strict=True):
                vectors[i].append(vector)
        if parts.visuals:
            for i, vector in zip(parts.visual_sequences, self._visual_vectors(parts.visuals), strict=True):
                vectors[i].append(vector)
        return np.stack([merged(np.stack(own)) for own in vectors])

    def make_adapter(self, weights: AdapterWeights) -> PreparedAdapter:
        """Always raises AdapterRefused."""
        raise AdapterRefused(adapter=weights.name, problem="a model with a tower for images takes none")

    def allow_preemption(self, preemption: Preemption) -> None:
        self.text_tower.tower.make_way = self.image_tower.tower.make_way = preemption.make_way

    def _visual_vectors(self, visuals: Sequence[Visual]) -> list[Floats]:
        """One a visual, [dimension] each"""
        frames = self._projected(self.image_tower([visual.pixels for visual in visuals]))
        ends = np.cumsum([len(visual.pixels) for visual in visuals])
        return [merged(own) for own in np.split(frames, ends[:-1])]

    def _projected(self, vectors: torch.Tensor) -> Floats:
        """Through the Dense modules: float32 [n, projection] to [n, dimension]"""
        for module in self.dense:
            vectors = module(vectors)
        return vectors.cpu().numpy()
