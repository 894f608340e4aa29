"""The vision tower of a Qwen-VL model over all images and videos of a batch: one forward, attention packed.

transformers' towers read patches end to end already, but send each frame (or window) through attention by itself. They
take what they would compute from the grids as keywords, too: told that there is one piece, they call attention once a
layer, and ours keeps frames and windows apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from transformers.modeling_utils import AttentionInterface
from transformers.vision_utils import get_vision_window_index

from embedway.models.attention import PackedLayout, packed_layout, varlen_attention
from embedway.models.packed_rows import ROW_MULTIPLE, num_spare_rows
from embedway.models.patches import patch_grid, patches_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt
    from transformers import PreTrainedModel

    from embedway.model_spec import PixelSpec, VisionSpec
    from embedway.visual import Visual

TOWER_ATTENTION = "embedway_tower"


def tower_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    tower_layouts: Mapping[nn.Module, PackedLayout],
    scaling: float | None = None,
    make_way: Callable[[], None] | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface as in `packed_attention`, without a direction, by each module's own layout."""
    assert attention_mask is None
    if make_way is not None:
        make_way()
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    return varlen_attention(q, k, v, tower_layouts[module], scale=scaling)[None], None


AttentionInterface.register(TOWER_ATTENTION, tower_attention)


@dataclass(frozen=True, slots=True)
class VisualFeatures:
    """What a tower gives, one row a token, visual after visual; in the model's dtype."""

    tokens: torch.Tensor
    """[tokens, hidden]: take the place of the placeholders' embeddings"""
    deepstack: tuple[torch.Tensor, ...]
    """[tokens, hidden] each: added behind the decoder's first layers (Qwen3-VL)"""


class VisionTower:
    """A model's tower. Takes it over: its attention is changed, and its first layer is made a plain linear one."""

    def __init__(self, model: PreTrainedModel, spec: VisionSpec) -> None:
        model.set_attn_implementation(TOWER_ATTENTION)
        model.patch_embed = linear_patch_embedding(model.get_submodule("patch_embed.proj"))
        self.model = model
        self.spec = spec
        blocks = model.get_submodule("blocks").children()
        self.attentions = [block.get_submodule("attn") for block in blocks]
        self.window_size: int | None = getattr(model.config, "window_size", None)
        self.make_way: Callable[[], None] | None = None
        self.full_layers = frozenset(getattr(model.config, "fullatt_block_indexes", range(len(self.attentions))))

    def features(self, visuals: Sequence[Visual]) -> VisualFeatures:
        """Of one visual or more, in their order."""
        pixels, device = self.spec.image, self.model.device
        grids = torch.tensor([patch_grid(visual, pixels) for visual in visuals])
        patches = torch.cat([patches_of(v, self._pixels(v), device).to(self.model.dtype) for v in visuals])
        num_patches = len(patches)
        spare = num_spare_rows(num_patches, device, multiple=ROW_MULTIPLE * pixels.merge_size**2)
        if spare:  # an image of its own, which no other sees
            patches = torch.cat([patches, patches.new_zeros(spare, patches.shape[1])])
            grids = torch.cat([grids, torch.tensor([[1, pixels.merge_size, spare // pixels.merge_size]])])
        attention = self._attention_of(grids, num_patches, len(patches))
        output = self.model(patches, grid_thw=grids.to(device), make_way=self.make_way, **attention)
        count = num_patches // pixels.merge_size**2
        deepstack = getattr(output, "deepstack_features", None) or ()
        return VisualFeatures(output.pooler_output[:count], tuple(layer[:count] for layer in deepstack))

    def _pixels(self, visual: Visual) -> PixelSpec:
        return self.spec.image if visual.kind == "image" else self.spec.video.pixels

    def _attention_of(self, grids: torch.Tensor, num_patches: int, num_rows: int) -> dict[str, object]:
        """Keywords of the forward: one piece for all, and the layout that each layer's attention really has."""
        one_piece = torch.tensor([0, num_rows], dtype=torch.int32)
        steps, rows, columns = grids.numpy().T
        frames = self._layout(np.cumsum([0, *np.repeat(rows * columns, steps)]), num_patches)
        if self.window_size is None:
            return {"cu_seqlens": one_piece, "tower_layouts": dict.fromkeys(self.attentions, frames)}
        order, window_ends = get_vision_window_index(
            grids,
            spatial_merge_size=self.spec.image.merge_size,
            window_size=self.window_size,
            patch_size=self.spec.image.patch_size,
        )
        windows = self._layout(window_ends.numpy(), num_patches)
        layouts = {module: frames if i in self.full_layers else windows for i, module in enumerate(self.attentions)}
        return {
            "cu_seqlens": one_piece,
            "window_index": order.to(self.model.device),
            "cu_window_seqlens": one_piece,
            "tower_layouts": layouts,
        }

    def _layout(self, ends: npt.NDArray[np.integer], num_patches: int) -> PackedLayout:
        """Without the spare rows"""
        return packed_layout(ends[ends <= num_patches].astype(np.int32), self.model.device)


def linear_patch_embedding(convolution: nn.Module) -> nn.Linear:
    """A convolution whose steps are as long as its kernel is one product a patch."""
    assert isinstance(convolution, nn.Conv3d)
    weight = convolution.weight.detach().flatten(1)
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=convolution.bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if convolution.bias is not None:
        linear.bias = nn.Parameter(convolution.bias.detach(), requires_grad=False)
    return linear
