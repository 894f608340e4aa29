"""transformers' own features of CLIP, SigLIP and SigLIP2. Imports torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from transformers import AutoImageProcessor, AutoModel

from embedway.comparison.auto_tokenizer import AutoTokenizerIds
from embedway.errors import CannotCheck
from embedway.models.dense import load_dense_modules
from embedway.models.transformers_loading import quiet_transformers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

    from embedway.comparison.deviation import Vectors
    from embedway.model_spec import ModelSpec


class DualEncoderReference:
    """Implements `reference.Reference`: one text or image at a time."""

    name = f"transformers {transformers.__version__}"

    def __init__(self, spec: ModelSpec, device: str) -> None:
        """Raises CannotCheck where it cannot load the folder."""
        self.declarations: dict[str, str] = {}
        self._device = torch.device(device)
        try:
            with quiet_transformers():
                model = AutoModel.from_pretrained(spec.folder, dtype=torch.float32, local_files_only=True)
                self._model: Any = model.eval().to(self._device)
                # Pillow's, as ours: torchvision's resizing rounds in another way
                self._processor: Any = AutoImageProcessor.from_pretrained(
                    spec.folder, local_files_only=True, backend="pil"
                )
                self._tokenizer = AutoTokenizerIds(spec)
        except (OSError, ValueError, ImportError) as error:
            problem = f"{self.name} cannot load it: {next(iter(str(error).splitlines()), type(error).__name__)}"
            raise CannotCheck(name=spec.name, problem=problem) from error
        # SigLIP was trained on texts padded to the full length, and sees the padding
        text_config = self._model.config.text_config
        self._pads_to = 0 if spec.model_type == "clip" else text_config.max_position_embeddings
        self._dense = load_dense_modules(spec)

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        return self._finished([self._text(self._tokenizer(text)) for text in texts])

    @torch.inference_mode()
    def embed_images(self, images: Sequence[Image]) -> Vectors:
        inputs = [self._processor(image, return_tensors="pt").to(self._device) for image in images]
        return self._finished([self._model.get_image_features(**given) for given in inputs])

    def _text(self, ids: Sequence[int]) -> Any:
        padding = [self._tokenizer.pad_token_id] * (self._pads_to - len(ids))
        return self._model.get_text_features(input_ids=torch.tensor([[*ids, *padding]], device=self._device))

    def _finished(self, outputs: Sequence[Any]) -> Vectors:
        vectors = np.concatenate([output.pooler_output.float().cpu().numpy() for output in outputs])
        for module in self._dense:
            vectors = module(vectors)
        return vectors
