"""Tiny CLIP, SigLIP and SigLIP2 folders: seeded random weights, real tokenizers trained here, real image processors.

`dual_checkpoint("clip", folder)` writes what AutoModel, AutoProcessor and sentence-transformers load; nothing is
downloaded. `Reference` is transformers' own way with the same folder.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModel, AutoTokenizer, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from embedway.models.interface import PackedBatch
from embedway.visual import VISUAL_TOKEN, Visual
from texts import SENTENCES, varied_texts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from PIL.Image import Image

SIDE, PATCH = 32, 8
"""Pixels of an image's and a patch's side, where the size is fixed"""
MAX_PATCHES = 24
TOWER = {"intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 2}
TEXT = {**TOWER, "hidden_size": 48}
VISION = {**TOWER, "hidden_size": 64, "patch_size": PATCH}
SAME_WIDTH = {**TOWER, "hidden_size": 64}
SIGLIP_ROLES = {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
GEMMA_ROLES = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}


@dataclass(frozen=True, slots=True)
class DualFamily:
    model_type: str
    write_tokenizer: Callable[[Path], None]
    text: Mapping[str, Any]
    vision: Mapping[str, Any]
    image_processor: Callable[[], Any]


def dual_checkpoint(
    family: str,
    folder: Path,
    *,
    seed: int = 0,
    text: Mapping[str, Any] | None = None,
    vision: Mapping[str, Any] | None = None,
) -> Path:
    """Write a tiny model of `family` (a key of DUAL_FAMILIES) to `folder`, which is made; `text` and `vision` override
    settings of the towers."""
    made = DUAL_FAMILIES[family]
    folder.mkdir(parents=True, exist_ok=True)
    made.write_tokenizer(folder)
    made.image_processor().save_pretrained(folder)
    vocab_size = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    specials = {"vocab_size": vocab_size, "bos_token_id": vocab_size - 2, "eos_token_id": vocab_size - 1}
    text_config = {**made.text, **specials, **(text or {})}
    extra = {"projection_dim": 40} if made.model_type == "clip" else {}
    config = AutoConfig.for_model(
        made.model_type, text_config=text_config, vision_config={**made.vision, **(vision or {})}, **extra
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModel.from_config(config).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):
                    parameter.normal_(std=0.1)  # zeros would hide a bias that is not read
                elif "norm" in name:
                    parameter.normal_(1, std=0.1)
                elif "embedding" in name:
                    parameter.normal_(std=0.5)
    model.save_pretrained(folder)
    return folder


class Reference:
    """transformers with the same folder, each text and image alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model: Any = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        kind = self.model.config.model_type
        build = {"clip": CLIPImageProcessorPil, "siglip": SiglipImageProcessorPil, "siglip2": Siglip2ImageProcessorPil}
        self.image_processor = build[kind].from_pretrained(folder)
        self.pads_to: int = 0 if kind == "clip" else self.model.config.text_config.max_position_embeddings
        self.patch_size = self.model.config.vision_config.patch_size

    @torch.inference_mode()
    def text(self, ids: Sequence[int]) -> np.ndarray:
        padding = [self.tokenizer.pad_token_id] * (self.pads_to - len(ids))
        return features(self.model.get_text_features(input_ids=torch.tensor([[*ids, *padding]])))

    @torch.inference_mode()
    def image(self, image: Image) -> np.ndarray:
        return features(self.model.get_image_features(**self.image_processor(image, return_tensors="pt")))

    def visual(self, *frames: Image) -> Visual:
        """As `media` makes it, by transformers' own resizing; more than one frame is a video."""
        plain = {"do_rescale": False, "do_normalize": False, "return_tensors": "np"}
        pixels = np.stack([self._pixels(self.image_processor(frame, **plain)) for frame in frames])
        tokens = pixels.shape[1] // self.patch_size * (pixels.shape[2] // self.patch_size)
        tokens = (tokens + (self.model.config.model_type == "clip")) * len(frames)
        return Visual("image" if len(frames) == 1 else "video", np.ascontiguousarray(pixels), tokens)

    def _pixels(self, made: Mapping[str, np.ndarray]) -> np.ndarray:
        if "spatial_shapes" not in made:
            return made["pixel_values"][0].transpose(1, 2, 0).astype(np.uint8)
        height, width = made["spatial_shapes"][0]
        patches = made["pixel_values"][0][: height * width]
        tiles = patches.reshape(height, width, self.patch_size, self.patch_size, 3).swapaxes(1, 2)
        return tiles.reshape(height * self.patch_size, width * self.patch_size, 3).astype(np.uint8)


def features(output: Any) -> np.ndarray:
    return output.pooler_output[0].numpy()


def packed_items(items: Sequence[tuple[Sequence[int], Sequence[Visual]]]) -> PackedBatch:
    """Items of a text's ids (none for no text) and visuals."""
    sequences = [[*ids, *[VISUAL_TOKEN] * sum(visual.num_tokens for visual in visuals)] for ids, visuals in items]
    return PackedBatch(
        token_ids=np.concatenate([np.asarray(sequence, np.int32) for sequence in sequences]),
        cu_seqlens=np.cumsum([0, *map(len, sequences)], dtype=np.int32),
        pool_starts=np.zeros(len(items), np.int32),
        visuals={i: tuple(visuals) for i, (_, visuals) in enumerate(items) if visuals},
    )


@functools.cache
def corpus() -> list[str]:
    return [*SENTENCES, *varied_texts(200)]


def clip_tokenizer(folder: Path) -> None:
    """CLIP's own: lowercasing byte-level BPE whose words end in </w>; both special tokens behind all others."""
    plain = CLIPTokenizer()
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = plain.backend_tokenizer.normalizer
    bpe.pre_tokenizer = plain.backend_tokenizer.pre_tokenizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    bpe.train_from_iterator(corpus(), trainer)
    learned = json.loads(bpe.to_str())["model"]
    pieces = [*learned["vocab"], *(f"{byte}</w>" for byte in alphabet), "<|startoftext|>", "<|endoftext|>"]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    merges: Any = [
        tuple(merge) for merge in learned["merges"]
    ]  # CLIPTokenizer's own annotation says less than it takes
    CLIPTokenizer(vocab, merges, model_max_length=77).save_pretrained(folder)


def siglip_tokenizer(folder: Path) -> None:
    """SigLIP's Unigram, which lowercases and drops punctuation."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"[!-/:-@\[-`{-~]"), ""),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    save_tokenizer(tokenizer, folder, "PreTrainedTokenizerFast", SIGLIP_ROLES)


def gemma_tokenizer(folder: Path) -> None:
    """Gemma's BPE as SigLIP2's folders have it: an <eos>, no <bos>, padded at the right."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer.train_from_iterator(
        corpus(), trainers.BpeTrainer(vocab_size=900, special_tokens=specials[:4], show_progress=False)
    )
    learned = json.loads(tokenizer.to_str())["model"]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys([*specials, *learned["vocab"]]))}
    merges = [tuple(merge) for merge in learned["merges"]]
    tokenizer.model = models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in specials[:4]])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    flags = {"add_bos_token": False, "add_eos_token": True, "do_lower_case": True}
    save_tokenizer(tokenizer, folder, "GemmaTokenizer", GEMMA_ROLES, **flags)


def save_tokenizer(tokenizer: Tokenizer, folder: Path, kind: str, roles: Mapping[str, str], **settings: object) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": kind, "model_max_length": 64, "padding_side": "right", **roles, **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "model_input_names": ["input_ids"]}))


SQUARE = {"height": SIDE, "width": SIDE}
FIXED = {**SAME_WIDTH, "patch_size": PATCH, "image_size": SIDE}
DUAL_FAMILIES: dict[str, DualFamily] = {
    "clip": DualFamily(
        "clip",
        clip_tokenizer,
        TEXT,
        {**VISION, "image_size": SIDE},
        lambda: CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=SQUARE),
    ),
    "clip with the exact gelu": DualFamily(
        "clip",
        clip_tokenizer,
        {**TEXT, "hidden_act": "gelu"},
        {**VISION, "image_size": SIDE, "hidden_act": "gelu"},
        lambda: CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=SQUARE),
    ),
    "siglip": DualFamily("siglip", siglip_tokenizer, SAME_WIDTH, FIXED, lambda: SiglipImageProcessorPil(size=SQUARE)),
    "siglip2": DualFamily(
        "siglip",
        gemma_tokenizer,
        SAME_WIDTH,
        FIXED,
        lambda: SiglipImageProcessorPil(size=SQUARE, resample=2),
    ),
    "siglip2 naflex": DualFamily(
        "siglip2",
        gemma_tokenizer,
        SAME_WIDTH,
        {**SAME_WIDTH, "patch_size": PATCH, "num_patches": 16},
        lambda: Siglip2ImageProcessorPil(patch_size=PATCH, max_num_patches=MAX_PATCHES),
    ),
}
