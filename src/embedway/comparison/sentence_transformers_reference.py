"""sentence-transformers, with the same folder. Imports torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sentence_transformers
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules.normalize import Normalize
from sentence_transformers.sentence_transformer.modules.pooling import Pooling

from embedway.comparison.reference import prompts_in_words
from embedway.errors import CannotCheck
from embedway.models.transformers_loading import quiet_transformers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from PIL.Image import Image

    from embedway.comparison.deviation import Vectors
    from embedway.model_spec import ModelSpec


class SentenceTransformersReference:
    """Implements `reference.Reference`."""

    name = f"sentence-transformers {sentence_transformers.__version__}"

    def __init__(self, spec: ModelSpec, folder: Path, device: str) -> None:
        """Raises CannotCheck where it cannot load the folder."""
        try:
            with quiet_transformers():
                self._model = SentenceTransformer(
                    str(folder),
                    device=device,
                    local_files_only=True,
                    trust_remote_code=spec.trust_remote_code,
                    model_kwargs={"dtype": torch.float32},
                )
        except Exception as error:  # it raises many kinds
            problem = f"{self.name} cannot load it: {next(iter(str(error).splitlines()), type(error).__name__)}"
            raise CannotCheck(name=spec.name, problem=problem) from error
        self._model.max_seq_length = spec.max_length
        self.declarations = declarations_of_modules(self._model)

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        return self._model.encode(list(texts), convert_to_numpy=True, show_progress_bar=False)

    def embed_images(self, images: Sequence[Image]) -> Vectors:
        raise NotImplementedError  # a text model's


def declarations_of_modules(model: SentenceTransformer) -> dict[str, str]:
    pooling = next((module for module in model if isinstance(module, Pooling)), None)
    found = {
        "normalize": "yes" if any(isinstance(module, Normalize) for module in model) else "no",
        "dimension": str(model.get_embedding_dimension()),
        "prompts": prompts_in_words(model.prompts, model.default_prompt_name),
    }
    if pooling is None:
        return found
    modes = pooling.pooling_mode
    return {"pooling": modes if isinstance(modes, str) else " + ".join(modes), **found}
