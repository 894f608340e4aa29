"""A model's folder → ModelSpec: what it declares is followed to the letter, and nothing is guessed.

The layout is that of sentence-transformers (old forms and 6.x): `modules.json`, the modules' folders,
`sentence_bert_config.json` (length, lowercasing), `config_sentence_transformers.json` (prompts, `truncate_dim`) and
transformers' `config.json`. A folder without `modules.json` is looked up in `known_families`, or needs a pooling from
the operator. Imports neither torch nor transformers: the supervisor process reads the spec.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from embedway.errors import InvalidSetting, UnsupportedCheckpoint
from embedway.model_spec import DenseSpec, ModelSpec, Pooling
from embedway.models.chat_templates import find_template
from embedway.models.dual_encoder_config import is_dual_encoder, projection_size, read_tower
from embedway.models.dual_encoder_spec import read_vision_spec
from embedway.models.json_files import JsonObject, read_object
from embedway.models.known_families import Family, find_family
from embedway.models.max_length import choose_max_length
from embedway.models.module_list import POOLING_MODES, ModuleList, PoolingSpec, read_module_list
from embedway.models.qwen_vl_spec import read_qwen_vl
from embedway.models.transformer_settings import (
    PLAIN_TEXT,
    TWO_TOWERS,
    TransformerSettings,
    read_transformer_settings,
)

if TYPE_CHECKING:
    from embedway.models.checkpoint_location import Location

HIDDEN_SIZE_KEYS = ("hidden_size", "d_model", "dim", "n_embd", "emb_dim")


@dataclass(frozen=True, slots=True)
class Head:
    """What follows the transformer."""

    pooling: PoolingSpec
    dense: tuple[DenseSpec, ...] = ()
    normalize: bool = False
    bidirectional: bool | None = None


@dataclass(frozen=True, slots=True)
class SentenceSettings:
    """`config_sentence_transformers.json`."""

    prompts: dict[str, str]
    default_prompt_name: str | None
    truncate_dim: int | None


def read_spec(
    location: Location | Path,
    *,
    name: str,
    pooling: str | None = None,
    max_length: int | None = None,
    chat_template: str | None = None,
    trust_remote_code: bool = False,
) -> ModelSpec:
    """Read the checkpoint at `location`, which the operator called `name`.

    `pooling`, `max_length` (tokens) and `chat_template` (a name or a file) are the operator's and win over the folder.
    Raises UnsupportedCheckpoint, naming the file, for what is missing, malformed or cannot be run, and InvalidSetting
    for a `max_length` that the model cannot take, an unknown `pooling` or `chat_template`.
    """
    folder, revision = (location, None) if isinstance(location, Path) else (location.folder, location.revision)
    modules = declared_modules(folder, name)
    subfolder = modules.transformer if modules else ""
    declared_config = read_declared_config(folder, subfolder)
    is_dual = is_dual_encoder(declared_config.text("model_type"))
    settings = read_transformer_settings(folder, subfolder, TWO_TOWERS if is_dual else PLAIN_TEXT)
    config = text_settings(declared_config, settings)
    model_type = config.text("model_type") or config.fail("has no 'model_type'")
    hidden_size = config.positive(*HIDDEN_SIZE_KEYS) or config.fail(f"has none of {', '.join(HIDDEN_SIZE_KEYS)}")
    family = find_family(name, model_type)
    if is_dual:
        head = dual_encoder_head(declared_config, modules, pooling)
        vision = read_vision_spec(declared_config, subfolder)
    else:
        head = text_head(config, modules, name, hidden_size, pooling)
        vision = read_qwen_vl(folder / subfolder, model_type, chosen_template(chat_template, family))
    dimension = check_widths(folder, head, head.pooling.width if is_dual else hidden_size)
    sentences = read_sentence_settings(folder, dimension) or family_settings(family)
    return ModelSpec(
        name=name,
        folder=str(folder / subfolder),
        tokenizer_folder=str(folder / subfolder),
        revision=revision,
        model_type=model_type,
        vocab_size=config.positive("vocab_size") or config.fail("has no 'vocab_size'"),
        hidden_size=hidden_size,
        max_length=choose_max_length(config, settings.max_length, tokenizer_length(folder, subfolder), max_length),
        pooling=head.pooling.modes,
        include_prompt=head.pooling.include_prompt,
        dense=tuple(seen_from(subfolder, module) for module in head.dense),
        dimension=dimension,
        normalize=head.normalize,
        matryoshka_dimensions=matryoshka_dimensions(config, dimension),
        truncate_dim=sentences.truncate_dim,
        prompts=sentences.prompts,
        default_prompt_name=sentences.default_prompt_name,
        # transformers puts a lowercasing step before whatever SigLIP2's tokenizer.json has
        lowercase=settings.lowercase or model_type == "siglip2",
        bidirectional=declared_direction(config, head.bidirectional),
        pad_token_id=config.integer("pad_token_id"),
        vision=vision,
        trust_remote_code=trust_remote_code,
    )


def declared_modules(folder: Path, name: str) -> ModuleList | None:
    """`modules.json`, unless its classes come with a known model."""
    config = read_object(folder, "config.json")
    family = find_family(name, config.text("model_type") or "") if config else None
    return None if family is not None and family.has_own_modules else read_module_list(folder)


def read_declared_config(folder: Path, subfolder: str) -> JsonObject:
    """`config.json` as it stands."""
    config = read_object(folder, str(Path(subfolder, "config.json")))
    if config is None:
        raise UnsupportedCheckpoint(folder=folder, problem=f"{Path(subfolder, 'config.json')} is missing")
    return config


def text_settings(config: JsonObject, settings: TransformerSettings) -> JsonObject:
    """The keys of a nested `text_config` take the place of those around it, except `model_type`."""
    model_type = config.values.get("model_type")
    nested = read_tower(config, "text") if is_dual_encoder(config.text("model_type")) else config.object("text_config")
    values = {**config.values, **nested.values, **(settings.config_overrides or {})}
    return replace(config, values={**values, "model_type": model_type})


def dual_encoder_head(config: JsonObject, modules: ModuleList | None, pooling: str | None) -> Head:
    """The towers pool by themselves, each in its own way; what may follow is a folder's Dense and Normalize."""
    if pooling is not None:
        raise InvalidSetting(setting="--pooling", problem=f"a {config.text('model_type')} model pools by itself")
    if modules is not None and modules.pooling is not None:
        config.fail("is a dual encoder's, whose vectors are pooled, but modules.json has a Pooling module after it")
    pooled = PoolingSpec((), include_prompt=True, width=projection_size(config))
    return Head(pooled, modules.dense, modules.normalize) if modules else Head(pooled)


def text_head(config: JsonObject, modules: ModuleList | None, name: str, hidden_size: int, pooling: str | None) -> Head:
    """What the folder declares, with the operator's pooling where there is one."""
    if modules is None:
        return with_pooling(known_head(config, name, hidden_size, pooling), pooling)
    missing = "modules.json has no Pooling module"
    declared = modules.pooling or stand_in(config.folder, missing, hidden_size, pooling)
    return with_pooling(Head(declared, modules.dense, modules.normalize), pooling)


def known_head(config: JsonObject, name: str, hidden_size: int, pooling: str | None) -> Head:
    """The head of a folder without `modules.json`: by its name, or by the operator's `--pooling`."""
    family = find_family(name, config.text("model_type") or "")
    if family is None:
        problem = f"it has no modules.json to declare its pooling, and {name!r} is no model whose pooling is known"
        return Head(stand_in(config.folder, problem, hidden_size, pooling))
    found = PoolingSpec((family.pooling,), include_prompt=True, width=hidden_size)
    return Head(found, normalize=family.normalize, bidirectional=family.bidirectional)


def stand_in(folder: Path, problem: str, width: int, pooling: str | None) -> PoolingSpec:
    """The operator's pooling in the place of a declared one; an error that asks for it where there is none."""
    if pooling is None:
        remedy = f"give its author's pooling with --pooling ({', '.join(POOLING_MODES)})"
        raise UnsupportedCheckpoint(folder=folder, problem=f"{problem}: {remedy}")
    return PoolingSpec((check_pooling(pooling),), include_prompt=True, width=width)


def with_pooling(head: Head, pooling: str | None) -> Head:
    """The operator's pooling wins over the declared one; the rest of the head stays."""
    if pooling is None:
        return head
    return replace(head, pooling=replace(head.pooling, modes=(check_pooling(pooling),)))


def check_pooling(pooling: str) -> Pooling:
    if pooling not in POOLING_MODES:
        raise InvalidSetting(setting="--pooling", problem=f"{pooling!r} is not one of {', '.join(POOLING_MODES)}")
    return pooling


def check_widths(folder: Path, head: Head, hidden_size: int) -> int:
    """Follow the vector's length from module to module; return the last. Raises UnsupportedCheckpoint."""
    if head.pooling.width != hidden_size:
        problem = f"its pooling expects vectors of {head.pooling.width}, but the transformer's have {hidden_size}"
        raise UnsupportedCheckpoint(folder=folder, problem=problem)
    width = hidden_size * max(1, len(head.pooling.modes))
    for module in head.dense:
        if module.in_features != width:
            problem = f"{module.folder} expects vectors of {module.in_features}, but it gets vectors of {width}"
            raise UnsupportedCheckpoint(folder=folder, problem=problem)
        width = module.out_features
    return width


def seen_from(subfolder: str, module: DenseSpec) -> DenseSpec:
    """The module's folder relative to the transformer's, which is the spec's."""
    return msgspec.structs.replace(module, folder=os.path.relpath(module.folder, subfolder)) if subfolder else module


def family_settings(family: Family | None) -> SentenceSettings:
    """What the authors of a known model do beside its files."""
    if family is None or not family.instruction:
        return SentenceSettings({}, None, None)
    return SentenceSettings({"default": family.instruction}, "default", None)


def chosen_template(name_or_file: str | None, family: Family | None) -> str | None:
    """The chat template that takes the place of the folder's, in Jinja. Raises InvalidSetting."""
    chosen = name_or_file or (family.chat_template if family else None)
    return find_template(chosen) if chosen else None


def read_sentence_settings(folder: Path, dimension: int) -> SentenceSettings | None:
    """None where there is no file of them"""
    config = read_object(folder, "config_sentence_transformers.json")
    if config is None:
        return None
    kind = config.text("model_type")
    if kind not in (None, "SentenceTransformer"):
        config.fail(f"says that this is a {kind} model; only SentenceTransformer models can be served")
    prompts, default = config.texts("prompts"), config.text("default_prompt_name")
    # sentence-transformers has these two, empty, in every model: as a default they add nothing.
    if default in ("query", "document") and default not in prompts:
        default = None
    if default is not None and default not in prompts:
        config.fail(f"has the default prompt {default!r}, which is not among its prompts")
    truncate_dim = config.positive("truncate_dim")
    return SentenceSettings(prompts, default, min(truncate_dim, dimension) if truncate_dim else None)


def tokenizer_length(folder: Path, subfolder: str) -> int | None:
    config = read_object(folder, str(Path(subfolder, "tokenizer_config.json")))
    return config.positive("model_max_length", "max_len") if config else None


def matryoshka_dimensions(config: JsonObject, dimension: int) -> tuple[int, ...]:
    """The declared lengths, ascending; `is_matryoshka` without a list allows every length."""
    declared = config.integers("matryoshka_dimensions")
    if not declared and config.boolean("is_matryoshka", False):
        return tuple(range(1, dimension + 1))
    return tuple(sorted({length for length in declared if length <= dimension}))


def declared_direction(config: JsonObject, of_family: bool | None) -> bool | None:
    """True for a decoder made bidirectional, False for one declared causal, None where nothing is declared."""
    if config.values.get("use_bidirectional_attention") is True or config.values.get("is_causal") is False:
        return True
    return False if config.values.get("is_causal") is True else of_family
