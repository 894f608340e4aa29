"""transformers' hidden states of each text alone, pooled as we read the folder. Imports torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import transformers

from embedway.comparison.auto_tokenizer import AutoTokenizerIds
from embedway.models.attention import packed_layout
from embedway.models.dense import load_dense_modules
from embedway.models.numpy_pooling import pool
from embedway.models.packed_transformer import OneByOneTransformer
from embedway.models.transformers_loading import load_transformer, quiet_transformers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

    from embedway.comparison.deviation import Vectors
    from embedway.model_spec import ModelSpec


class TransformersReference:
    """Implements `reference.Reference`. A default prompt is put before each text, and pooled or not as declared."""

    name = f"transformers {transformers.__version__}"

    def __init__(self, spec: ModelSpec, device: str) -> None:
        """Raises UnsupportedCheckpoint."""
        self.declarations: dict[str, str] = {}
        self._spec, self._device = spec, torch.device(device)
        self._prompt = spec.prompts[spec.default_prompt_name] if spec.default_prompt_name else ""
        with quiet_transformers():
            self._model = OneByOneTransformer(load_transformer(spec, torch.float32, self._device))
            self._tokenizer = AutoTokenizerIds(spec)
        self._dense = load_dense_modules(spec)

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        return np.stack([self._embed(self._prompt + text) for text in texts])

    def embed_images(self, images: Sequence[Image]) -> Vectors:
        raise NotImplementedError  # a text model's

    def _embed(self, text: str) -> Vectors:
        """[dimension]"""
        ids = self._tokenizer(text)
        ends = np.array([0, len(ids)], np.int32)
        token_ids = torch.tensor(ids, dtype=torch.int64, device=self._device)
        states = self._model.hidden_states(token_ids, packed_layout(ends, self._device)).float().cpu().numpy()
        vectors = pool(states, ends, np.zeros(1, np.int32), self._spec.pooling)
        for module in self._dense:
            vectors = module(vectors)
        return vectors[0, : self._spec.truncate_dim]
