"""The seam between the check and what it compares with, and the choice of that.

A folder with `modules.json` is compared with sentence-transformers, which reads the same declarations by itself. One
without, or without sentence-transformers here, with transformers' hidden states, pooled as we say: then the pooling
itself is not checked. A dual encoder is compared with transformers' own features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from embedway.errors import CannotCheck, TorchNotInstalled
from embedway.models.known_families import find_family

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from PIL.Image import Image

    from embedway.comparison.deviation import Vectors
    from embedway.model_spec import ModelSpec


class Reference(Protocol):
    """Computes in float32."""

    name: str
    """With its version"""
    declarations: dict[str, str]
    """What it has read of the folder by itself, in words, by the names of `declarations_of`"""

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """[n, dimension]; longer texts are cut at their ends, as the model declares. Any length of vectors."""
        ...

    def embed_images(self, images: Sequence[Image]) -> Vectors:
        """[n, dimension], of a model that reads images"""
        ...


def load_reference(spec: ModelSpec, folder: Path, *, device: str, threads: int) -> Reference:
    """`folder` is the whole checkpoint's. Raises TorchNotInstalled, CannotCheck or UnsupportedCheckpoint."""
    try:
        import torch
        import transformers  # noqa: F401 - all references need it
    except ModuleNotFoundError as error:
        raise TorchNotInstalled(what="a check, which compares with transformers,", package=error.name) from error
    torch.set_num_threads(threads)
    if spec.vision is not None and spec.vision.chat is not None:
        problem = f"{spec.model_type} is compared with transformers at each start of the server, and not here"
        raise CannotCheck(name=spec.name, problem=problem)
    if spec.vision is not None:
        from embedway.comparison.dual_encoder_reference import DualEncoderReference

        return DualEncoderReference(spec, device)
    if is_declared(spec, folder):
        try:
            from embedway.comparison.sentence_transformers_reference import SentenceTransformersReference
        except ModuleNotFoundError:
            pass
        else:
            return SentenceTransformersReference(spec, folder, device)
    if spec.default_prompt_name is not None and not spec.include_prompt:
        raise CannotCheck(name=spec.name, problem="its pooling leaves out a prompt, which needs sentence-transformers")
    from embedway.comparison.transformers_reference import TransformersReference

    return TransformersReference(spec, device)


def is_declared(spec: ModelSpec, folder: Path) -> bool:
    """Whether sentence-transformers finds in the folder what it needs to know."""
    family = find_family(spec.name, spec.model_type)
    return (folder / "modules.json").is_file() and not (family is not None and family.has_own_modules)


def declarations_of(spec: ModelSpec) -> dict[str, str]:
    """What we have read of the folder, in words."""
    return {
        "pooling": " + ".join(spec.pooling) or "the model's own",
        "normalize": "yes" if spec.normalize else "no",
        "dimension": str(spec.truncate_dim or spec.dimension),
        "prompts": prompts_in_words(spec.prompts, spec.default_prompt_name),
    }


def prompts_in_words(prompts: Mapping[str, str | None], default: str | None) -> str:
    """Empty ones are left out: sentence-transformers has two of them in every model."""
    marks = {default: " (default)"}
    filled = sorted((name, text) for name, text in prompts.items() if text)
    return ", ".join(f"{name}{marks.get(name, '')} {text!r}" for name, text in filled) or "none"
