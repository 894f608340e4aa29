"""A dual encoder's folder → a DualEncoder, checked on this machine before it is used.

The check compares with the same weights in plain float32 torch, without oneDNN's layouts and the native library: what a
machine computes wrongly shows there. That our arithmetic is transformers' is for the tests to show, so that a server
need not import transformers and hold the model twice.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from embedway.models.cpu_linear import NEEDED_GAIN, can_pack, packing_gain
from embedway.models.dense import load_dense_modules
from embedway.models.dual_encoder import DualEncoder
from embedway.models.dual_encoder_config import read_dual_encoder_config
from embedway.models.image_tower import ImageTower
from embedway.models.interface import PackedBatch
from embedway.models.sample_batch import sample_token_ids
from embedway.models.text_tower import TextTower, text_reading
from embedway.models.torch_types import TORCH_TYPES
from embedway.models.tower_weights import TowerWeights
from embedway.models.weight_dtype import (
    BROKEN_COSINE,
    BY_EXACTNESS,
    WORST_COSINE,
    StartCheck,
    check_dtype,
    declared_dtype,
    describe,
    measure_gains,
    preference,
)
from embedway.models.weight_files import WeightFiles
from embedway.visual import VISUAL_TOKEN, Visual

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedway.kernels.native import GemmType
    from embedway.model_spec import ModelSpec
    from embedway.models.attention import PackedLayout
    from embedway.models.dense import Dense
    from embedway.models.dual_encoder_config import DualEncoderConfig
    from embedway.models.text_tower import TextReading

logger = logging.getLogger("embedway.models")

CHECK_TEXTS = (3, 5, 9)
"""Their lengths in tokens; an image comes with each."""
TIMED_LAYERS = 2
"""Of each tower: every layer does the same work."""
PACKING_ROWS = 256
"""Where oneDNN's layout is judged: a few images. For a single one it may be no faster than plain bfloat16."""
SQUARE = 224
"""Pixels of a side of the sample images where the model takes any size"""


def load_dual_encoder(spec: ModelSpec, *, dtype: str, device: str, threads: int) -> DualEncoder:
    """dtype may be `auto`; device is `cpu`, `cuda` or `cuda:<n>`. Raises UnsupportedCheckpoint."""
    maker = Maker.of(spec, torch.device(device), threads)
    plain = maker.plain()
    batch = sample_items(spec, maker.config, CHECK_TEXTS)
    check = StartCheck(batch, plain.embed(batch))
    gains = gains_here(maker, spec) if dtype == "auto" and device == "cpu" else {}
    order = preference(gains) if gains else [declared_dtype(spec) if dtype == "auto" else check_dtype(dtype)]
    for kind in order:
        model = maker.make(kind)
        cosine = check.worst_cosine(model)
        if cosine >= max(BROKEN_COSINE[kind], WORST_COSINE if gains else 0):
            model.facts["dtype_choice"] = f"{describe(gains) if gains else 'as asked'}; cosine to exact {cosine:.6f}"
            return model
        logger.warning("%s: %s is too far from plain float32 here, cosine %.6f", spec.name, kind, cosine)
        del model  # never two copies beside the plain one
    logger.error("%s: fast layers give wrong vectors on this machine and are not used", spec.name)
    return plain


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes one folder's model in any type."""

    spec: ModelSpec
    config: DualEncoderConfig
    reading: TextReading
    files: WeightFiles
    dense: tuple[Dense, ...]
    device: torch.device
    threads: int

    @classmethod
    def of(cls, spec: ModelSpec, device: torch.device, threads: int) -> Maker:
        config = read_dual_encoder_config(spec)
        dense = load_dense_modules(spec)
        return cls(spec, config, text_reading(spec, config), WeightFiles(Path(spec.folder)), dense, device, threads)

    def make(self, kind: GemmType, *, threads: int | None = None) -> DualEncoder:
        torch.set_num_threads(threads or self.threads)  # the whole process's, so the last model's count
        dtype = TORCH_TYPES[kind]
        pack = self.device.type == "cpu" and pays_to_pack(self.config.vision.hidden_size, dtype)
        return self._model(dtype, pack=pack, backend="torch, packed towers" + (" with oneDNN" if pack else ""))

    def plain(self) -> DualEncoder:
        torch.set_num_threads(self.threads)
        model = self._model(torch.float32, pack=False, backend="torch, plain towers")
        for tower in (model.text_tower.tower, model.image_tower.tower):
            tower.attend = attention_one_by_one
        return model

    def shortened(self) -> Maker:
        """The same with TIMED_LAYERS in each tower"""
        text, vision = self.config.text, self.config.vision
        few = replace(
            self.config,
            text=replace(text, num_layers=min(text.num_layers, TIMED_LAYERS)),
            vision=replace(vision, num_layers=min(vision.num_layers, TIMED_LAYERS)),
        )
        return replace(self, config=few)

    def _model(self, dtype: torch.dtype, *, pack: bool, backend: str) -> DualEncoder:
        assert self.spec.vision is not None
        weights = TowerWeights(self.files, dtype, self.device, pack)
        text = TextTower(weights, self.config, self.reading)
        image = ImageTower(weights, self.config, self.spec.vision.image)
        return DualEncoder(text, image, self.dense, dimension=self.spec.dimension, backend=backend)


@functools.cache
def pays_to_pack(hidden_size: int, dtype: torch.dtype) -> bool:
    """Whether oneDNN's own layout of an MLP's weight is faster on this CPU."""
    if not can_pack(dtype):
        return False
    weight = torch.randn(4 * hidden_size, hidden_size).to(dtype)
    return packing_gain(weight, weight[:, 0].contiguous(), rows=PACKING_ROWS) >= NEEDED_GAIN


def gains_here(maker: Maker, spec: ModelSpec) -> dict[GemmType, float]:
    """How many times float32's speed each type that oneDNN computes here reaches."""
    few = maker.shortened()
    possible = [kind for kind in BY_EXACTNESS if kind == "float32" or can_pack(TORCH_TYPES[kind])]
    if len(possible) == 1:
        return {"float32": 1.0}
    sample = sample_items(spec, maker.config, CHECK_TEXTS)
    return measure_gains({kind: few.make(kind, threads=1) for kind in possible}, [sample])


def sample_items(spec: ModelSpec, config: DualEncoderConfig, lengths: Sequence[int]) -> PackedBatch:
    """Made-up texts of these lengths, and as many images, one item each."""
    ids = sample_token_ids(sum(lengths), spec)
    side = config.image_size or SQUARE // config.patch_size * config.patch_size
    images = [Visual("image", pixels, num_tokens=1) for pixels in sample_pixels(len(lengths), side)]
    count = len(lengths)
    return PackedBatch(
        token_ids=np.concatenate([ids, np.full(count, VISUAL_TOKEN, np.int32)]),
        cu_seqlens=np.cumsum([0, *lengths, *[1] * count], dtype=np.int32),
        pool_starts=np.zeros(2 * count, np.int32),
        visuals={count + i: (image,) for i, image in enumerate(images)},
    )


def sample_pixels(count: int, side: int) -> np.ndarray:
    """uint8 [count, 1, side, side, 3]: slopes and grain, each image unlike the others"""
    grain = np.random.default_rng(0).integers(0, 64, (count, 1, side, side, 3))
    slope = np.linspace(0, 191, side)[:, None, None] * np.array([1, 0.5, 0.25])
    turned = np.stack([np.roll(slope, i * side // count, axis=0)[None] for i in range(count)])
    return (grain + turned).astype(np.uint8)


def attention_one_by_one(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: PackedLayout, *, causal: bool
) -> torch.Tensor:
    """What `varlen_attention` is to give, by torch's own alone."""
    out = torch.zeros_like(query)
    for start, stop in zip(layout.cu_seqlens[:-1].tolist(), layout.cu_seqlens[1:].tolist(), strict=True):
        q, k, v = (x[start:stop].transpose(0, 1) for x in (query, key, value))
        out[start:stop] = functional.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(0, 1)
    return out
