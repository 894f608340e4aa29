"""A peft folder → the low-rank changes that it declares. No torch."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedway.adapter_ref import CONFIG, WEIGHTS
from embedway.errors import AdapterRefused
from embedway.kernels.native_adapter import LowRank
from embedway.models.adapter_config import parse_adapter_config
from embedway.models.weight_files import float32_values, parse_tensors

if TYPE_CHECKING:
    from pathlib import Path

    from embedway.models.adapter_config import AdapterConfig
    from embedway.models.weight_files import Tensor

PICKLED = "adapter_model.bin"
LORA_TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")
OTHER_TENSORS = {
    "lora_embedding_": "adapts an embedding, and only linear layers can be adapted",
    "lora_magnitude_vector": "is of DoRA, and only plain LoRA and rsLoRA are computed here",
    "lora_B.bias": "is a bias of its own (lora_bias)",
    "trainable_tokens_delta": "trains tokens of its own",
}
"""What is wrong with a tensor, by a part of its name"""
WHOLE_WEIGHT = "is no LoRA: added tokens and modules of its own cannot be served"


@dataclass(frozen=True, slots=True)
class AdapterWeights:
    """A LoRA adapter as its folder holds it. float32."""

    name: str
    """For errors: the adapter's name"""
    folder: str
    content_hash: str
    """SHA-256 of adapter_config.json and the weights, in hex"""
    modules: dict[str, LowRank]
    """By the path of the linear layer in the base model, as peft names it: `encoder.layer.0.attention.self.query`"""


def read_adapter(folder: Path, *, name: str, max_rank: int | None) -> AdapterWeights:
    """Read a peft folder whole: its files may be written anew meanwhile, so nothing of them stays mapped.

    Raises AdapterRefused, whose sentence names no path, for whatever cannot be followed to the letter.
    """
    try:
        if not (folder / WEIGHTS).is_file() and (folder / PICKLED).is_file():
            raise ValueError(f"it has {PICKLED} and no {WEIGHTS}: pickled weights are not loaded")
        config_bytes, weight_bytes = (read_bytes(folder, file) for file in (CONFIG, WEIGHTS))
        config = parse_adapter_config(config_bytes)
        modules = read_modules(config, weight_bytes, folder / WEIGHTS, max_rank)
    except ValueError as error:
        raise AdapterRefused(adapter=name, problem=str(error)) from error
    # of the config's own hash: no config can end in what another one's weights begin with
    digest = hashlib.sha256(hashlib.sha256(config_bytes).digest() + weight_bytes).hexdigest()
    return AdapterWeights(name, str(folder), digest, modules)


def read_bytes(folder: Path, file: str) -> bytes:
    try:
        if (folder / file).exists() and not (folder / file).is_file():  # a pipe would never end
            raise ValueError(f"{file} cannot be read: it is no file")
        return (folder / file).read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f"its folder has no {file}") from error
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from error


def read_modules(config: AdapterConfig, data: bytes, path: Path, max_rank: int | None) -> dict[str, LowRank]:
    """Every adapted module's change, its scale folded in. Raises ValueError."""
    factors: dict[str, dict[str, Tensor]] = {}
    for key, tensor in parse_tensors(path, np.frombuffer(data, np.uint8)).items():
        match = LORA_TENSOR.fullmatch(key)
        if match is None:
            problem = next((why for part, why in OTHER_TENSORS.items() if part in key), WHOLE_WEIGHT)
            raise ValueError(f"its tensor {key} {problem}")
        factors.setdefault(match["module"], {})[match["factor"]] = tensor
    if not factors:
        raise ValueError(f"{WEIGHTS} holds no weights")
    return {module: low_rank(config, module, pair, max_rank) for module, pair in sorted(factors.items())}


def low_rank(config: AdapterConfig, module: str, pair: dict[str, Tensor], max_rank: int | None) -> LowRank:
    missing = {"A", "B"} - pair.keys()
    if missing:
        raise ValueError(f"{module} has no lora_{missing.pop()}")
    try:
        if not config.has_target(module):
            raise ValueError(f"it changes {module}, which {CONFIG} does not name in target_modules")
        rank, scale = config.rank(module), config.scale(module)
    except re.error as error:
        raise ValueError(f"{CONFIG} has a pattern that is no regular expression: {error}") from error
    a, b = pair["A"].shape, pair["B"].shape
    if len(a) != 2 or len(b) != 2 or a[0] != rank or b[1] != rank:
        raise ValueError(f"{module} has factors of the shapes {a} and {b}, which do not fit its rank {rank}")
    if max_rank is not None and rank > max_rank:
        raise ValueError(
            f"{module} has the rank {rank}, and the largest that is served is {max_rank} (--max-lora-rank)"
        )
    with np.errstate(over="ignore"):  # infinity is refused below
        # copies: a view would keep the whole file in memory
        down, up = np.array(float32_values(pair["A"])), float32_values(pair["B"]) * np.float32(scale)
    if not (np.isfinite(down).all() and np.isfinite(up).all()):
        raise ValueError(f"{module} has weights that are no finite numbers")
    return LowRank(down, up)
