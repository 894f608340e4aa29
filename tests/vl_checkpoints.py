"""Tiny folders of the Qwen-VL kind: seeded random weights, byte-level BPE with Qwen's special tokens, a chat template.

transformers' AutoModel and AutoTokenizer load the same folder, so they are the reference. Nothing is downloaded.
"""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForImageTextToText

from embedway.models.checkpoint import read_spec
from embedway.models.transformers_loading import quiet_transformers
from embedway.visual import Visual
from texts import SENTENCES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from embedway.model_spec import ModelSpec, VisionSpec
    from embedway.visual import MediaKind

SPECIAL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
PLAIN_ADDED_TOKENS = ("<tool_call>", "</tool_call>")
"""Qwen's tokenizers have such, too: looked for in every text, but not special"""
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

PARTS = (
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part.text }}{% endif %}{% endfor %}{% endif %}"
)
DEFAULT_SYSTEM = (
    "{% if loop.first and message.role != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
)
ENDING = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def chat_template(system: str) -> str:
    return (
        "{% for message in messages %}"
        + system
        + "<|im_start|>{{ message.role }}\n"
        + PARTS
        + "<|im_end|>\n{% endfor %}"
        + ENDING
    )


TEXT = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2_vl": {
        "text_config": {**TEXT, "rope_parameters": {"rope_type": "default", "mrope_section": [2, 2, 2]}},
        "vision_config": {
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 48,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
    },
    "qwen2_5_vl": {
        "text_config": {**TEXT, "rope_parameters": {"rope_type": "default", "mrope_section": [2, 2, 2]}},
        "vision_config": {
            "depth": 3,
            "hidden_size": 32,
            "out_hidden_size": 48,
            "num_heads": 2,
            "intermediate_size": 40,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 24,
            "fullatt_block_indexes": [1],
            "tokens_per_second": 2,
        },
    },
    "qwen3_vl": {
        "text_config": {
            **TEXT,
            "head_dim": 16,
            "rope_parameters": {"rope_type": "default", "mrope_section": [4, 2, 2], "mrope_interleaved": True},
        },
        "vision_config": {
            "depth": 3,
            "hidden_size": 32,
            "out_hidden_size": 48,
            "num_heads": 2,
            "intermediate_size": 40,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 36,
            "deepstack_visual_indexes": [0, 1],
        },
    },
}


def tiny_vl_checkpoint(
    model_type: str, folder: Path, *, files: Mapping[str, object] | None = None, seed: int = 0
) -> Path:
    """Write a tiny model of a key of FAMILIES to `folder`, which is made; it declares last-token pooling.

    `files` are further JSON files, or other contents of those that are written anyway.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = qwen_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    write_weights(model_type, folder, tokenizer, seed)
    system = "" if model_type == "qwen3_vl" else DEFAULT_SYSTEM
    (folder / "chat_template.jinja").write_text(chat_template(system))
    written = {
        "tokenizer_config.json": {
            "tokenizer_class": "Qwen2Tokenizer",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "model_max_length": 512,
        },
        "preprocessor_config.json": {
            "image_processor_type": "Qwen2VLImageProcessor",
            "min_pixels": 64,
            "max_pixels": 4096,
            "patch_size": 4,
            "merge_size": 2,
            "temporal_patch_size": 2,
        },
        "modules.json": [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(
                [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
            )
        ],
        "1_Pooling/config.json": {"word_embedding_dimension": 48, "pooling_mode": "lasttoken"},
        **(files or {}),
    }
    for name, value in written.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(value))
    return folder


def tiny_vl_spec(model_type: str, folder: Path) -> ModelSpec:
    return read_spec(tiny_vl_checkpoint(model_type, folder), name=model_type)


def write_weights(model_type: str, folder: Path, tokenizer: Tokenizer, seed: int) -> None:
    """Weights far from their usual start, at which hardly anything would depend on anything."""
    ids = {
        f"{name}_token_id": tokenizer.token_to_id(token)
        for name, token in {
            "image": "<|image_pad|>",
            "video": "<|video_pad|>",
            "vision_start": "<|vision_start|>",
            "vision_end": "<|vision_end|>",
        }.items()
    }
    parts = FAMILIES[model_type]
    text = {**parts["text_config"], "vocab_size": tokenizer.get_vocab_size()}
    torch.manual_seed(seed)
    with quiet_transformers():
        config = AutoConfig.for_model(model_type, **{**parts, "text_config": text}, **ids)
        model = AutoModelForImageTextToText.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.15 if parameter.ndim > 1 else 0.1))
    with quiet_transformers():
        model.save_pretrained(folder)


@cache
def qwen_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    roles = ("system\nYou are a helpful assistant.", "user\n", "assistant\n", "<0.3 seconds>", "user\n\n\n text")
    tokenizer.train_from_iterator([*SENTENCES, *roles * 5], trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in PLAIN_ADDED_TOKENS])
    return tokenizer


def random_visual(
    vision: VisionSpec, kind: MediaKind, frames: int, height: int, width: int, *, seed: int = 0, fps: float = 2.0
) -> Visual:
    """Noise of so many tokens high and wide."""
    pixels = vision.image
    token = pixels.patch_size * pixels.merge_size
    random = np.random.default_rng(seed)
    values = random.integers(0, 256, (frames, height * token, width * token, 3), dtype=np.uint8)
    steps = -(-frames // pixels.temporal_patch_size)
    times = () if kind == "image" else tuple(i / fps for i in range(frames))
    return Visual(kind, values, steps * height * width, times)
