"""Vision-language models of the Qwen-VL kind: text, images and videos in one sequence → one vector.

The vision tower turns the patches of all visuals into token vectors, which take the places of the placeholders; then
the decoder reads the sequences packed, as any text model (`packed_transformer.py`), at M-RoPE's positions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import PreTrainedModel

from embedway.models.attention import packed_layout
from embedway.models.device_copies import VectorsOnTheWay
from embedway.models.mrope import RotaryPositions, is_visual
from embedway.models.packed_rows import with_spare_rows
from embedway.models.packed_transformer import PackedTransformer
from embedway.models.qwen_vl_tower import VisionTower
from embedway.models.text_model import adapted_rows, in_groups, left_out
from embedway.models.transformer_adapter import make_adapter
from embedway.models.vector_head import VectorHead

if TYPE_CHECKING:
    import numpy.typing as npt

    from embedway.model_spec import ChatSpec, ModelSpec, VisionSpec
    from embedway.models.adapter_checkpoint import AdapterWeights
    from embedway.models.attention import PackedLayout
    from embedway.models.dense import Dense
    from embedway.models.interface import PackedBatch, Preemption
    from embedway.models.torch_adapter import TorchAdapter

DECODER = "language_model"
"""The decoder's name in transformers' model"""


class VisionLanguageEncoder:
    """Tower and decoder. Takes the transformers model over: both get attention of ours."""

    def __init__(self, model: PreTrainedModel, vision: VisionSpec, chat: ChatSpec) -> None:
        self.tower = VisionTower(part(model, "visual"), vision)
        self.decoder = PackedTransformer(part(model, DECODER))
        self.embed_tokens = self.decoder.model.get_input_embeddings()
        self.chat = chat
        tokens_per_second = getattr(model.config.vision_config, "tokens_per_second", None)
        self.positions = RotaryPositions(vision.image, chat, tokens_per_second)

    def hidden_states(
        self, batch: PackedBatch, layout: PackedLayout, *, windows_seen: list[int | None] | None = None
    ) -> torch.Tensor:
        """[total, hidden] in the model's dtype; each decoder layer adds its window to `windows_seen`.

        Raises ValueError where placeholders and visuals do not match.
        """
        device = layout.cu_seqlens.device
        token_ids = with_spare_rows(torch.as_tensor(batch.token_ids).to(device, torch.int64))
        embedded = self.embed_tokens(token_ids)
        positions = with_spare_rows(torch.as_tensor(self.positions.of_batch(batch)).to(device))
        inputs = {"position_ids": positions.T[:, None], **self._with_visuals(batch, embedded)}
        return self.decoder.run(inputs, layout, adapted_rows(batch), num_rows=len(token_ids), windows_seen=windows_seen)

    def _with_visuals(self, batch: PackedBatch, embedded: torch.Tensor) -> dict[str, object]:
        """The decoder's input; `embedded` [rows, hidden] is changed in place."""
        places = np.flatnonzero(is_visual(batch.token_ids, self.chat))
        visuals = [visual for i in sorted(batch.visuals) for visual in batch.visuals[i]]
        if len(places) != sum(visual.num_tokens for visual in visuals):
            raise ValueError(f"{len(places)} placeholders for {[visual.num_tokens for visual in visuals]} tokens")
        if not visuals:
            return {"inputs_embeds": embedded[None]}
        features = self.tower.features(visuals)
        rows = torch.as_tensor(places).to(embedded.device)
        embedded[rows] = features.tokens
        if not features.deepstack:
            return {"inputs_embeds": embedded[None]}
        mask = torch.zeros(1, len(embedded), dtype=torch.bool, device=embedded.device)
        mask[0, rows] = True
        return {
            "inputs_embeds": embedded[None],
            "visual_pos_masks": mask,
            "deepstack_visual_embeds": list(features.deepstack),
        }


class VisionLanguageModel:
    """Implements `interface.EmbeddingModel`, and on a CPU `interface.PreemptibleModel`."""

    def __init__(
        self,
        spec: ModelSpec,
        encoder: VisionLanguageEncoder,
        dense: tuple[Dense, ...],
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.dtype = str(dtype).removeprefix("torch.")
        self.device = str(device)
        self.dimension = spec.dimension
        self.facts = {"backend": "transformers, packed"}
        self.encoder = encoder
        self.head = VectorHead.of(spec, dense, device)

    @torch.inference_mode()
    def embed(self, batch: PackedBatch) -> npt.NDArray[np.float32]:
        """Return float32 [n, dimension], not normalised, in the order of the batch."""
        ordered, order = in_groups(batch)
        layout = packed_layout(ordered.cu_seqlens, torch.device(self.device))
        hidden = self.encoder.hidden_states(ordered, layout)
        return VectorsOnTheWay(self.head(hidden, layout, left_out(ordered)), order).vectors()

    def make_adapter(self, weights: AdapterWeights) -> TorchAdapter:
        """For the decoder alone: raises AdapterRefused for an adapter that changes the tower."""
        return make_adapter(weights, self.encoder.decoder.model, own_prefix=DECODER)

    def allow_preemption(self, preemption: Preemption) -> None:
        self.encoder.tower.make_way = self.encoder.decoder.make_way = preemption.make_way


def part(model: PreTrainedModel, name: str) -> PreTrainedModel:
    found = model.get_submodule(name)
    assert isinstance(found, PreTrainedModel)
    return found
