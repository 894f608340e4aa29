"""ModelSpec: what a checkpoint declares. Built by `models/checkpoint.py`, read everywhere, sent between processes."""

from __future__ import annotations

from typing import Literal

import msgspec

Pooling = Literal["cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]


class DenseSpec(msgspec.Struct, frozen=True):
    """One `Dense` module of a sentence-transformers folder: `activation(x @ weight.T + bias)`."""

    folder: str
    in_features: int
    out_features: int
    bias: bool
    activation: str


class PixelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """How a frame becomes what the vision tower reads: `preprocessor_config.json`."""

    resize: Literal["none", "exact", "shortest_edge", "smart", "patch_budget"]
    """exact: to height x width. shortest_edge: that side to `height`, keeping the aspect. smart: Qwen-VL's, sides that
    are multiples of `patch_size * merge_size` with between min_pixels and max_pixels pixels. patch_budget: SigLIP2
    NaFlex's, the largest sides of whole patches of which there are at most max_patches."""
    height: int = 0
    width: int = 0
    crop: tuple[int, int] | None = None
    """Height and width of the centre that is kept after resizing"""
    resample: int = 3
    """Pillow's filter: 0 nearest, 1 Lanczos, 2 bilinear, 3 bicubic"""
    min_pixels: int = 0
    max_pixels: int = 0
    max_patches: int = 0
    patch_size: int
    merge_size: int = 1
    """Patches along each side that become one token"""
    temporal_patch_size: int = 1
    """Frames that become one patch; the last one is repeated to fill it"""
    class_tokens: int = 0
    """Tokens of each frame beside its patches: CLIP's class token"""
    rescale_factor: float = 1 / 255
    mean: tuple[float, float, float]
    """Of RGB, after rescaling; 0 and std 1 where nothing is normalised"""
    std: tuple[float, float, float]


class VideoSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Which frames of a video a model reads."""

    pixels: PixelSpec
    is_budget_of_all: bool = False
    """True: min_pixels and max_pixels are of all frames together, temporal patches counted (Qwen3-VL)"""
    includes_last: bool = False
    """True: the frames are spread from the first to the last (Qwen3-VL). False: each begins an equal share of the
    video, and their number is rounded down to whole temporal patches (Qwen2-VL)."""
    fps: float
    """Frames a second, at most those that the video has"""
    min_frames: int
    max_frames: int


class ChatSpec(msgspec.Struct, frozen=True, kw_only=True):
    """How an item becomes a vision-language model's prompt."""

    template: str
    """Jinja source"""
    image_token_id: int
    video_token_id: int
    vision_start_token_id: int
    vision_end_token_id: int
    has_timestamps: bool = False
    """True: the time of each temporal patch stands before it in words (Qwen3-VL)"""


class VisionSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a model that reads images declares of them."""

    image: PixelSpec
    video: VideoSpec
    chat: ChatSpec | None = None
    """None: a dual encoder, with a tower for text and one for images"""


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One checkpoint. Lengths are in tokens, special tokens included. Written by `models/checkpoint.py`."""

    name: str
    """The name the operator gave: a Hub id or a folder."""
    folder: str
    """The local folder with `config.json`, the tokenizer and the weights."""
    tokenizer_folder: str
    """Where `tokenizer.json` and `tokenizer_config.json` lie (another folder if the tokenizer had to be converted)."""
    revision: str | None
    """The Hub commit, where known."""
    model_type: str
    """`model_type` of `config.json`, e.g. `bert`."""
    vocab_size: int
    """Rows of the token embedding: valid ids are `0 … vocab_size - 1`."""
    hidden_size: int
    max_length: int
    """Most tokens an item may have; exactly this many is fine."""
    pooling: tuple[Pooling, ...]
    """Modes whose vectors are concatenated, in this order (nearly always one); empty for a dual encoder, whose towers
    pool by themselves."""
    include_prompt: bool
    """False: the prompt's tokens are left out of the pooling."""
    dense: tuple[DenseSpec, ...]
    """Dense modules after the pooling, in order."""
    dimension: int
    """Length of a full vector, after pooling and Dense modules."""
    normalize: bool
    """True where the folder declares a Normalize module."""
    matryoshka_dimensions: tuple[int, ...]
    """Declared Matryoshka lengths, ascending; empty where none are declared."""
    truncate_dim: int | None
    """sentence-transformers' `truncate_dim`: the default length of a vector."""
    prompts: dict[str, str]
    """Declared prompts by name."""
    default_prompt_name: str | None
    lowercase: bool
    """True: texts are lowercased before the tokenizer (`do_lower_case` of `sentence_bert_config.json`)."""
    bidirectional: bool | None = None
    """Overrides the direction of a decoder's attention where the folder declares it (e.g. `is_causal: false`)."""
    pad_token_id: int | None = None
    vision: VisionSpec | None = None
    """None: the model reads text only"""
    trust_remote_code: bool = False
