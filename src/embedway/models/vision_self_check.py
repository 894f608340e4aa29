"""The start-up check of a vision-language model: our packed forward must give what transformers gives one by one."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import torch

from embedway.models.attention import packed_layout
from embedway.models.interface import PackedBatch
from embedway.models.mrope import seconds_per_frame
from embedway.models.patches import patch_grid, patches_of
from embedway.models.sample_batch import sample_token_ids
from embedway.models.self_check import TOLERANCES, windows_match, worst_difference
from embedway.visual import Visual

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from transformers import PreTrainedModel

    from embedway.model_spec import ChatSpec, ModelSpec, VisionSpec
    from embedway.models.vision_language import VisionLanguageEncoder
    from embedway.visual import MediaKind

logger = logging.getLogger("embedway.models")

SAMPLES: tuple[tuple[tuple[MediaKind, int, int, int], ...], ...] = (
    (),
    (("image", 1, 2, 3),),
    (),
    (("image", 1, 1, 2), ("video", 3, 2, 1)),
)
"""The visuals of each sequence: kind, frames, height and width, in tokens"""
TEXT_LENGTH = 5
"""Tokens before, between and behind the visuals"""


class VisionSelfCheck:
    """What transformers itself computes for a few short sequences. Made before anything of the model is changed."""

    def __init__(self, model: PreTrainedModel, spec: ModelSpec, vision: VisionSpec, chat: ChatSpec) -> None:
        self.batch = sample_batch(spec, vision, chat)
        self.layout = packed_layout(self.batch.cu_seqlens, model.device)
        # a GPU's convolutions would round float32 to 10 bits, which no other of its products does
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            self.expected = torch.cat(
                [
                    reference_states(model, ids, self.batch.visuals.get(i, ()), vision, chat)
                    for i, ids in enumerate(np.split(self.batch.token_ids, self.batch.cu_seqlens[1:-1]))
                ]
            )

    def passes(self, encoder: VisionLanguageEncoder) -> bool:
        """Whether the encoder agrees. One that raises does not."""
        windows: list[int | None] = []
        try:
            with torch.inference_mode():
                got = encoder.hidden_states(self.batch, self.layout, windows_seen=windows)
        except Exception as error:  # whatever a foreign model's forward raises
            logger.debug("vision-language self-check raised %r", error)
            return False
        difference = worst_difference(got, self.expected, self.layout.lengths.tolist())
        return windows_match(encoder.decoder.model.config, windows) and difference <= TOLERANCES[self.expected.dtype]


def sample_batch(spec: ModelSpec, vision: VisionSpec, chat: ChatSpec) -> PackedBatch:
    visuals = [tuple(sample_visual(vision, *sizes) for sizes in sample) for sample in SAMPLES]
    sequences = [sample_sequence(own, spec, chat) for own in visuals]
    return PackedBatch(
        token_ids=np.concatenate(sequences),
        cu_seqlens=np.cumsum([0, *map(len, sequences)], dtype=np.int32),
        pool_starts=np.zeros(len(sequences), np.int32),
        visuals={i: own for i, own in enumerate(visuals) if own},
    )


def sample_visual(vision: VisionSpec, kind: MediaKind, frames: int, height: int, width: int) -> Visual:
    pixels = vision.image
    token = pixels.patch_size * pixels.merge_size
    shape = (frames, height * token, width * token, 3)
    values = (np.arange(np.prod(shape)) * 37 % 251).astype(np.uint8).reshape(shape)
    steps = -(-frames // pixels.temporal_patch_size)
    times = () if kind == "image" else tuple(i / 2 for i in range(frames))
    return Visual(kind, values, steps * height * width, times)


def sample_sequence(visuals: Sequence[Visual], spec: ModelSpec, chat: ChatSpec) -> npt.NDArray[np.int32]:
    """Text around the visuals; a video is one piece, or with timestamps one a step."""
    texts = sample_token_ids(TEXT_LENGTH, spec)
    parts = [texts]
    for visual in visuals:
        num_pieces = len(visual.timestamps[::2]) if chat.has_timestamps and visual.kind == "video" else 1
        token_id = chat.image_token_id if visual.kind == "image" else chat.video_token_id
        parts += [np.full(visual.num_tokens // num_pieces, token_id, np.int32), texts] * num_pieces
    return np.concatenate(parts)


def reference_states(
    model: PreTrainedModel,
    token_ids: npt.NDArray[np.int32],
    visuals: Sequence[Visual],
    vision: VisionSpec,
    chat: ChatSpec,
) -> torch.Tensor:
    """One sequence through the model as it is: [length, hidden]."""
    ids = torch.as_tensor(token_ids).to(model.device, torch.int64)[None]
    kinds = (ids == chat.image_token_id).int() + 2 * (ids == chat.video_token_id).int()
    inputs: dict[str, object] = {}
    videos = [visual for visual in visuals if visual.kind == "video"]
    images = [visual for visual in visuals if visual.kind == "image"]
    for own, pixels, name, grid_name in (
        (images, vision.image, "pixel_values", "image_grid_thw"),
        (videos, vision.video.pixels, "pixel_values_videos", "video_grid_thw"),
    ):
        if own:
            inputs[name] = torch.cat([patches_of(visual, pixels, model.device) for visual in own])
            inputs[grid_name] = torch.tensor([patch_grid(visual, pixels) for visual in own], device=model.device)
    if videos and hasattr(model.config.vision_config, "tokens_per_second"):
        step = vision.video.pixels.temporal_patch_size
        inputs["second_per_grid_ts"] = [step * seconds_per_frame(video) for video in videos]
    return model(input_ids=ids, mm_token_type_ids=kinds, **inputs)[0][0]
