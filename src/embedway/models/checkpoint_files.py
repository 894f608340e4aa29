"""Is a folder a whole checkpoint? What is missing is said in a sentence; nothing is loaded."""

from __future__ import annotations

from pathlib import Path

from embedway.models.json_files import read_object
from embedway.models.module_list import TRANSFORMERS, Module, list_modules

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer.model", "sentencepiece.bpe.model", "spiece.model", "spm.model", "vocab.txt"),
    *("vocab.json", "tekken.json", "tiktoken.model"),
)
INDEX = "model.safetensors.index.json"
OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.h5", "*.msgpack", "*.onnx", "*.gguf")


def missing_config(folder: Path) -> str | None:
    """A sentence's end if the transformer has no `config.json`. Raises UnsupportedCheckpoint for a bad modules.json."""
    return None if (transformer_folder(folder) / "config.json").is_file() else "it has no config.json"


def missing_files(folder: Path) -> str | None:
    """A sentence's end that says what else is missing, or None. Raises UnsupportedCheckpoint for malformed JSON."""
    transformer = transformer_folder(folder)
    if (problem := missing_weights(transformer)) is not None:
        return problem
    if not any((transformer / name).is_file() for name in TOKENIZER_FILES):
        return "it has no tokenizer (tokenizer.json)"
    for module in list_modules(folder) or ():
        if (problem := missing_in_module(folder, module)) is not None:
            return problem
    return None


def transformer_folder(folder: Path) -> Path:
    """The folder of the transformer module: the checkpoint's own, or one like `0_Transformer`."""
    transformer = next((module for module in list_modules(folder) or () if module.kind in TRANSFORMERS), None)
    return folder / transformer.path if transformer else folder


def missing_weights(folder: Path) -> str | None:
    """Weights are read from safetensors files only: one, or the shards that an index lists."""
    index = read_object(folder, INDEX)
    if index is not None:
        shards = sorted(set(index.texts("weight_map").values()))
        absent = [shard for shard in shards if not (folder / shard).is_file()]
        return f"{absent[0]} is missing, which {INDEX} lists" if absent else None
    if any(folder.glob("*.safetensors")):
        return None
    others = sorted(path.name for pattern in OTHER_WEIGHTS for path in folder.glob(pattern))
    if others:
        return f"it has its weights in {others[0]}, but only safetensors are read: save it again in that format"
    return "it has no weights in safetensors format (model.safetensors)"


def missing_in_module(folder: Path, module: Module) -> str | None:
    own = folder / module.path
    if module.kind in ("Pooling", "Dense") and not (own / "config.json").is_file():
        return f"{module.path}/config.json is missing"
    return missing_weights_of(module, own) if module.kind == "Dense" else None


def missing_weights_of(module: Module, folder: Path) -> str | None:
    if (folder / "model.safetensors").is_file():
        return None
    if (folder / "pytorch_model.bin").is_file():
        return f"{module.path} has its weights in pytorch_model.bin, but only safetensors are read"
    return f"{module.path}/model.safetensors is missing"
