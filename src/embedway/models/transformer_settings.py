"""The transformer module's own file, `sentence_bert_config.json`: length, lowercasing, and what it may not ask for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from embedway.models.json_files import JsonObject, read_object

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)
"""Its names over the years; the first that says anything counts."""

ARGUMENTS: Mapping[tuple[str, str], frozenset[str]] = {
    ("model_kwargs", "model_args"): frozenset(
        {
            *("add_pooling_layer", "attn_implementation", "code_revision", "device_map", "dtype", "low_cpu_mem_usage"),
            *("revision", "torch_dtype", "trust_remote_code", "use_safetensors"),
        }
    ),
    ("config_kwargs", "config_args"): frozenset(
        {
            *("attn_implementation", "code_revision", "is_causal", "reference_compile"),
            *("revision", "trust_remote_code", "unpad_inputs", "use_bidirectional_attention", "use_cache"),
            "use_memory_efficient_attention",
        }
    ),
    ("processor_kwargs", "tokenizer_args"): frozenset(
        {
            *("clean_up_tokenization_spaces", "code_revision", "model_max_length", "padding_side"),
            *("revision", "trust_remote_code", "use_fast"),
        }
    ),
}
"""Arguments (by their new and old name) that change no vector here, or that are read here. Others are refused."""

MULTI_VECTOR_KEYS = ("query_length", "document_length", "query_expansion")


@dataclass(frozen=True, slots=True)
class Task:
    """What is taken from the model: the way of each kind of input through it, and the name of the result."""

    ways: Mapping[str, Mapping[str, str]]
    output: str


PLAIN_TEXT = Task({"text": {"method": "forward", "method_output_name": "last_hidden_state"}}, "token_embeddings")
TWO_TOWERS = Task(
    {
        "text": {"method": "get_text_features", "method_output_name": "pooler_output"},
        "image": {"method": "get_image_features", "method_output_name": "pooler_output"},
    },
    "sentence_embedding",
)


@dataclass(frozen=True, slots=True)
class TransformerSettings:
    """What the file declares; the defaults are those of a folder without it."""

    max_length: int | None = None
    """Declared length, in tokens with special tokens"""
    lowercase: bool = False
    config_overrides: Mapping[str, object] | None = None
    """Keys that take the place of those in `config.json`"""


def read_transformer_settings(folder: Path, subfolder: str, task: Task = PLAIN_TEXT) -> TransformerSettings:
    """Read it from `<folder>/<subfolder>`. Raises UnsupportedCheckpoint for a setting that cannot be followed here."""
    values = find_file(folder, subfolder)
    if values is None:
        return TransformerSettings()
    check_task(values, task)
    arguments = {new: read_arguments(values, (new, old), known) for (new, old), known in ARGUMENTS.items()}
    # As in sentence-transformers: the tokenizer's argument is the more specific one.
    length = arguments["processor_kwargs"].positive("model_max_length") or values.positive("max_seq_length")
    return TransformerSettings(
        max_length=length,
        lowercase=values.boolean("do_lower_case", False),
        config_overrides=arguments["config_kwargs"].values,
    )


def find_file(folder: Path, subfolder: str) -> JsonObject | None:
    found = (read_object(folder, str(PurePosixPath(subfolder, name))) for name in NAMES)
    return next((values for values in found if values is not None and values.values), None)


def check_task(values: JsonObject, known: Task) -> None:
    """Refuse what is not the task that this kind of model is run for."""
    task = values.text("transformer_task")
    if task not in (None, "feature-extraction"):
        values.fail(f"asks for the task {task!r}; only 'feature-extraction' can be run here")
    output = values.text("module_output_name")
    if output not in (None, known.output):
        values.fail(f"takes {output!r} from the model; only {known.output!r} can be run here")
    modalities = values.object("modality_config")
    for kind, way in known.ways.items():
        declared = modalities.object(kind).values
        if modalities.values and any(declared.get(key) != value for key, value in way.items()):
            steps = f"{way['method']} and take its {way['method_output_name'].replace('_', ' ')}"
            values.fail(f"does not send {'plain text' if kind == 'text' else kind} through the model's {steps}")
    for key in MULTI_VECTOR_KEYS:
        if values.has(key):
            values.fail(f"sets {key!r}, which cannot be followed here")


def read_arguments(values: JsonObject, names: tuple[str, str], known: frozenset[str]) -> JsonObject:
    name = next((name for name in reversed(names) if values.has(name)), names[0])
    arguments = values.object(name)
    unknown = [key for key in arguments.values if key not in known]
    if unknown:
        values.fail(f"sets {unknown[0]!r} in {name!r}, which cannot be followed here")
    return arguments
