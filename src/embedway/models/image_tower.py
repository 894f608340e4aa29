"""The image tower of CLIP, SigLIP and SigLIP2: frames as uint8 pixels → one vector a frame.

Frames lie end to end, a row a patch, so that those of NaFlex may have any size without padding. CLIP puts a class token
before its patches and pools there; SigLIP's towers pool by attention to all patches.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from torch.nn import functional

from embedway.models.attention import packed_layout
from embedway.models.packed_rows import row_chunks, with_spare_rows
from embedway.models.tower import Tower, load_mlp

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from embedway.model_spec import PixelSpec
    from embedway.models.attention import PackedLayout
    from embedway.models.dual_encoder_config import DualEncoderConfig
    from embedway.models.fused_linear import Norm
    from embedway.models.tower import Mlp
    from embedway.models.tower_weights import TowerWeights

    Pixels = npt.NDArray[np.uint8]

KEPT_GRIDS = 64
"""Sizes whose interpolated positions are kept: a few hundred kilobytes each."""


class Grid(NamedTuple):
    """Patches of a frame."""

    height: int
    width: int


def patchify(pixels: Pixels, patch_size: int) -> npt.NDArray[np.uint8]:
    """[frames, height, width, 3] to [frames · patches, patch_size · patch_size · 3]: rows, columns, colours."""
    frames, height, width, colours = pixels.shape
    p = patch_size
    tiles = pixels.reshape(frames, height // p, p, width // p, p, colours).transpose(0, 1, 3, 2, 4, 5)
    return tiles.reshape(-1, p * p * colours)


class PatchEmbedding:
    """Patches and their places → the tower's first states."""

    def __init__(self, weights: TowerWeights, config: DualEncoderConfig, pixels: PixelSpec) -> None:
        hidden, p, name = config.vision.hidden_size, config.patch_size, "vision_model.embeddings"
        self.config, self.dtype, self.device = config, weights.dtype, weights.device
        self.rescale_factor = pixels.rescale_factor
        self.mean, self.std = (torch.tensor(x, device=weights.device).repeat(p * p) for x in (pixels.mean, pixels.std))
        if config.model_type == "siglip2":
            self.project = weights.linear(f"{name}.patch_embedding", 3 * p * p, hidden)
        else:
            # a convolution whose steps are its size is a product; its weight is colours first, our patches are last
            kernel = weights.tensor(f"{name}.patch_embedding.weight", hidden, 3, p, p).permute(0, 2, 3, 1)
            bias = None if config.model_type == "clip" else weights.copy(f"{name}.patch_embedding.bias", hidden)
            self.project = weights.made(kernel.reshape(hidden, -1), bias)
        is_clip = config.model_type == "clip"
        self.class_token = weights.copy(f"{name}.class_embedding", hidden) if is_clip else None
        table = f"{name}.position_embedding.weight"
        self.positions = weights.copy(table, config.num_patches + is_clip, hidden)
        self.positions_on = functools.lru_cache(KEPT_GRIDS)(self._interpolated)

    def __call__(self, visuals: Sequence[Pixels], grids: Sequence[Grid]) -> torch.Tensor:
        """Pixels of [frames, height, width, 3] and each frame's grid, to float32 [rows + spare, hidden]"""
        patches = np.concatenate([patchify(pixels, self.config.patch_size) for pixels in visuals])
        values = with_spare_rows(torch.from_numpy(patches).to(self.device)).float()
        # in the order of transformers' processors, not folded into one product: equal to the last bit
        normal = values.mul_(self.rescale_factor).sub_(self.mean).div_(self.std)
        hidden = self.project(normal.to(self.dtype)).float()
        if self.config.image_size is None:
            places = torch.cat([self.positions_on(grid) for grid in grids])
            return hidden + with_spare_rows(places)
        frames = hidden[: len(patches)].unflatten(0, (len(grids), -1))
        if self.class_token is not None:
            frames = torch.cat([self.class_token.expand(len(grids), 1, -1), frames], dim=1)
        return with_spare_rows((frames + self.positions).flatten(0, 1))

    def _interpolated(self, grid: Grid) -> torch.Tensor:
        """NaFlex's positions, [patches, hidden]: the learned square stretched to the grid."""
        side = int(self.config.num_patches**0.5)
        square = self.positions.unflatten(0, (side, side)).permute(2, 0, 1)[None]
        resized = functional.interpolate(square, grid, mode="bilinear", align_corners=False, antialias=True)
        return resized[0].flatten(1).T.contiguous()


class Pooler(Protocol):
    """A frame's states → its vector. The tower need only compute the rows that `rows` names; all where it is None."""

    def rows(self, layout: PackedLayout) -> torch.Tensor | None: ...

    def __call__(self, states: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        """float32 [rows, hidden] to float32 [n, dimension]"""
        ...


class ClassToken:
    """CLIP's: the class token's state, projected."""

    def __init__(self, weights: TowerWeights, config: DualEncoderConfig) -> None:
        self.dtype = weights.dtype
        self.norm = weights.norm("vision_model.post_layernorm", config.vision.hidden_size, config.vision.layer_norm_eps)
        self.head = weights.linear("visual_projection", config.vision.hidden_size, config.projection_size, bias=False)

    def rows(self, layout: PackedLayout) -> torch.Tensor:
        return with_spare_rows(layout.cu_seqlens[:-1].long())

    def __call__(self, states: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        return self.head(self.norm(states).to(self.dtype))[: layout.num_sequences].float()


class AttentionPooling:
    """SigLIP's: one learned query attends to a frame's patches, then an MLP."""

    def __init__(self, weights: TowerWeights, config: DualEncoderConfig) -> None:
        shape, name = config.vision, "vision_model.head"
        hidden = shape.hidden_size
        self.dtype, self.num_heads = weights.dtype, shape.num_heads
        self.post_norm = weights.norm("vision_model.post_layernorm", hidden, shape.layer_norm_eps)
        in_weight = weights.tensor(f"{name}.attention.in_proj_weight", 3 * hidden, hidden)
        in_bias = weights.tensor(f"{name}.attention.in_proj_bias", 3 * hidden)
        probe = weights.tensor(f"{name}.probe", 1, 1, hidden)[0]
        self.query = functional.linear(probe, in_weight[:hidden], in_bias[:hidden]).to(self.dtype)
        self.key_value = weights.made(in_weight[hidden:], in_bias[hidden:].clone())
        self.out = weights.linear(f"{name}.attention.out_proj", hidden, hidden)
        self.norm: Norm = weights.norm(f"{name}.layernorm", hidden, shape.layer_norm_eps)
        self.mlp: Mlp = load_mlp(weights, f"{name}.mlp", shape)

    def rows(self, layout: PackedLayout) -> None:  # noqa: ARG002 - all of them, whatever the layout
        return None

    def __call__(self, states: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        key_value = self.key_value(self.post_norm(states).to(self.dtype))
        pooled = torch.cat([self._attended(key_value, *run) for run in layout.runs])
        hidden = self.out(with_spare_rows(pooled)).float()
        hidden = hidden + self.mlp(self.norm(hidden).to(self.dtype))
        return hidden[: layout.num_sequences]

    def _attended(self, key_value: torch.Tensor, start: int, count: int, length: int) -> torch.Tensor:
        """Neighbouring frames of one length: [count, hidden]"""
        rows = key_value[start : start + count * length].unflatten(0, (count, length))
        k, v = rows.unflatten(2, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        query = self.query.unflatten(1, (self.num_heads, -1)).transpose(0, 1).expand(count, -1, -1, -1)
        return functional.scaled_dot_product_attention(query, k, v).transpose(1, 2).flatten(1)


class ImageTower:
    def __init__(self, weights: TowerWeights, config: DualEncoderConfig, pixels: PixelSpec) -> None:
        shape = config.vision
        self.config, self.device = config, weights.device
        self.embedding = PatchEmbedding(weights, config, pixels)
        is_clip = config.model_type == "clip"
        # transformers' own spelling
        norm = "vision_model.pre_layrnorm"
        self.first_norm = weights.norm(norm, shape.hidden_size, shape.layer_norm_eps) if is_clip else None
        self.tower = Tower(weights, "vision_model", shape)
        self.pooler: Pooler = ClassToken(weights, config) if is_clip else AttentionPooling(weights, config)

    def __call__(self, visuals: Sequence[Pixels]) -> torch.Tensor:
        """uint8 [frames, height, width, 3] each, to float32 [all frames, dimension], in order"""
        frames = [pixels[i : i + 1] for pixels in visuals for i in range(len(pixels))]
        lengths = [self._length(self._grid(frame)) for frame in frames]
        return torch.cat([self._run(frames[start:stop]) for start, stop in row_chunks(lengths)])

    def _run(self, frames: Sequence[Pixels]) -> torch.Tensor:
        grids = [self._grid(frame) for frame in frames]
        layout = packed_layout(np.cumsum([0, *map(self._length, grids)], dtype=np.int32), self.device)
        hidden = self.embedding(frames, grids)
        if self.first_norm is not None:
            hidden = self.first_norm(hidden)
        return self.pooler(self.tower(hidden, layout, pooled=self.pooler.rows(layout)), layout)

    def _grid(self, frame: Pixels) -> Grid:
        size, p = self.config.image_size, self.config.patch_size
        height, width = frame.shape[1:3]
        assert size is None or (height, width) == (size, size), "media made an image of a size that its spec forbids"
        return Grid(height // p, width // p)

    def _length(self, grid: Grid) -> int:
        return grid.height * grid.width + (self.config.model_type == "clip")
