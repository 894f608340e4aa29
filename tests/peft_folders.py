"""LoRA adapters for tests, by peft itself: `peft_folder(base, folder, LoraConfig(r=4))` writes one for a model."""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModel

from embedway.models.transformers_loading import quiet_transformers

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    import numpy.typing as npt
    from transformers import PreTrainedModel

    from embedway.model_spec import ModelSpec

STRENGTH = 1.0
"""Of the random factors: large enough for an adapter left out, or mistaken for another, to show at once."""


def peft_folder(
    base: Path | str, folder: Path, config: LoraConfig, *, seed: int = 0, strength: float = STRENGTH
) -> Path:
    """Write a random adapter for the checkpoint in `base`."""
    with quiet_transformers():
        model = AutoModel.from_pretrained(base)
    return save_random_adapter(model, folder, config, seed=seed, strength=strength)


def save_random_adapter(
    model: Any, folder: Path, config: LoraConfig, *, seed: int = 0, strength: float = STRENGTH
) -> Path:
    """The same for a torch module of any kind."""
    with quiet_peft():
        adapted = get_peft_model(model, config)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:  # peft starts with B at zero, which changes nothing
                parameter.copy_(torch.randn(parameter.shape, generator=random) * strength / parameter.shape[-1] ** 0.5)
    with quiet_peft():
        adapted.save_pretrained(str(folder))
    return folder


@contextlib.contextmanager
def quiet_peft() -> Generator[None, None, None]:
    """peft 0.21 asks transformers 5 for what that calls deprecated; a warning fails a test."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        yield


@torch.inference_mode()
def peft_vectors(spec: ModelSpec, adapter: Path | None, sequences: Sequence[list[int]]) -> npt.NDArray[np.float32]:
    """peft's, in float32, each sequence in a forward of its own, pooled by hand: float32 [n, hidden]."""
    with quiet_transformers(), quiet_peft():
        base: PreTrainedModel = AutoModel.from_pretrained(spec.folder, attn_implementation="eager", dtype=torch.float32)
        model = base if adapter is None else PeftModel.from_pretrained(base, str(adapter))
    vectors = []
    for sequence in sequences:
        states = model.eval()(input_ids=torch.tensor([sequence]))[0][0]
        pooled = {"mean": states.mean(0), "cls": states[0], "lasttoken": states[-1]}[spec.pooling[0]]
        vectors.append(pooled.numpy())
    return np.stack(vectors)


def cosines(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Of each row of a to the same row of b: float64 [n]"""
    x, y = a.astype(np.float64), b.astype(np.float64)
    return (x * y).sum(axis=1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
