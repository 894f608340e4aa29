"""The models that are measured: the real MiniLM, and the shapes of larger BERTs with random weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from embedway.models.checkpoint_location import locate

MINILM = "minilm"


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a BERT."""

    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int

    @property
    def linear_weights(self) -> int:
        """Of all layers; the embedding tables multiply nothing."""
        return self.num_layers * (4 * self.hidden_size**2 + 2 * self.hidden_size * self.intermediate_size)

    @property
    def gemms(self) -> tuple[tuple[int, int], ...]:
        """A layer's linear layers, (in, out): query, key and value at once, the heads' projection, up, down."""
        h, i = self.hidden_size, self.intermediate_size
        return ((h, 3 * h), (h, h), (h, i), (i, h))

    def flops_per_token(self, length: float) -> float:
        """Of one token in a sequence of `length` tokens: the linear layers, and the two products of attention."""
        return 2 * self.linear_weights + 4 * length * self.hidden_size * self.num_layers


SHAPES: Mapping[str, Shape] = {
    MINILM: Shape(384, 6, 12, 1536),
    "bge-base": Shape(768, 12, 12, 3072),
    "bge-large": Shape(1024, 24, 16, 4096),
}


def minilm_folder() -> Path:
    return locate("sentence-transformers/all-MiniLM-L6-v2").folder


class Checkpoints:
    """Model folders by the names of SHAPES; those with random weights are made when first asked for, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def folder_of(self, name: str) -> Path:
        if name == MINILM:
            return minilm_folder()
        folder = self._folder / name
        if not folder.exists():
            write_random_bert(SHAPES[name], folder)
        return folder


def write_random_bert(shape: Shape, folder: Path) -> None:
    """A sentence-transformers folder: a BERT of this shape with random weights, MiniLM's tokenizer, CLS pooling."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        intermediate_size=shape.intermediate_size,
    )
    BertModel(config).save_pretrained(folder)
    write_sentence_transformers_files(folder, shape.hidden_size, pooling="cls_token")


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """The sizes of a decoder with grouped heads of 128 each and a gated MLP."""

    model_type: str
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    intermediate_size: int


DECODER_SHAPES: Mapping[str, DecoderShape] = {
    "qwen3-embedding-0.6b": DecoderShape("qwen3", 1024, 28, 16, 8, 3072),
    "e5-mistral-7b": DecoderShape("mistral", 4096, 32, 32, 8, 14336),
}
DECODER_VOCABULARY = 32_000


def write_random_decoder(shape: DecoderShape, folder: Path, device: str) -> None:
    """A sentence-transformers folder: a decoder of this shape with random bfloat16 weights, made on a device; MiniLM's
    tokenizer, last-token pooling."""
    import torch
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        shape.model_type,
        vocab_size=DECODER_VOCABULARY,
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=128,
        intermediate_size=shape.intermediate_size,
        max_position_embeddings=4096,
        sliding_window=None,
    )
    with torch.device(device):
        model = AutoModel.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    write_sentence_transformers_files(folder, shape.hidden_size, pooling="lasttoken")


def write_sentence_transformers_files(folder: Path, hidden_size: int, *, pooling: str) -> None:
    """All beside the transformer: MiniLM's tokenizer, a length of 512 tokens, pooling and normalisation."""
    for path in minilm_folder().glob("*"):
        if path.name in {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"}:
            shutil.copyfile(path, folder / path.name)
    modules = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    listing = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(modules)
    ]
    settings = {"word_embedding_dimension": hidden_size, f"pooling_mode_{pooling}": True}
    if pooling != "cls_token":
        settings["pooling_mode_cls_token"] = False
    write_json(folder / "modules.json", listing)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 512, "do_lower_case": False})
    write_json(folder / "1_Pooling" / "config.json", settings)


def write_random_clip(folder: Path) -> None:
    """A sentence-transformers folder: CLIP ViT-B/32's shape with random weights, and a tokenizer of single bytes."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    torch.manual_seed(0)
    bytes_in_text = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*bytes_in_text, *(f"{byte}</w>" for byte in bytes_in_text), "<|startoftext|>", "<|endoftext|>"]
    CLIPTokenizer({piece: i for i, piece in enumerate(pieces)}, [], model_max_length=77).save_pretrained(folder)
    special = {"vocab_size": len(pieces), "bos_token_id": len(pieces) - 2, "eos_token_id": len(pieces) - 1}
    CLIPModel(CLIPConfig(text_config=special)).save_pretrained(folder)
    CLIPImageProcessorPil().save_pretrained(folder)
    module = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.CLIPModel"}
    write_json(folder / "modules.json", [module])


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
