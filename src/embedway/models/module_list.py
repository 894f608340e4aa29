"""`modules.json` of a sentence-transformers folder: transformer → pooling → Dense → Normalize, and nothing else.

`CLIPModel` is the transformer of a dual encoder's older folders.

Classes are named by their path, which moved over the years (`sentence_transformers.models.Pooling`,
`sentence_transformers.sentence_transformer.modules.pooling.Pooling`); the class name alone counts. A module that this
server cannot run is refused by name: a vector that lacks a step would be wrong in silence.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, cast, get_args

from embedway.errors import UnsupportedCheckpoint
from embedway.model_spec import DenseSpec, Pooling
from embedway.models.json_files import JsonObject, read_json, read_object

if TYPE_CHECKING:
    from collections.abc import Sequence

POOLING_MODES: tuple[Pooling, ...] = get_args(Pooling)
POOLING_FLAGS: dict[str, Pooling] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""The older form of `pooling_mode`; several that are true are concatenated in this order."""

TRANSFORMERS = ("Transformer", "CLIPModel")
SUPPORTED = (*TRANSFORMERS, "Pooling", "Dense", "Normalize")
HARMLESS = ("Dropout",)
"""Modules that do nothing outside training."""


@dataclass(frozen=True, slots=True)
class Module:
    """One line of `modules.json`."""

    kind: str
    """The name of a class that is SUPPORTED, or the whole path of another"""
    path: str
    """Its folder, relative to the checkpoint's; empty for the checkpoint's own"""


@dataclass(frozen=True, slots=True)
class PoolingSpec:
    modes: tuple[Pooling, ...]
    include_prompt: bool
    width: int
    """Length of the token vectors that it expects"""


@dataclass(frozen=True, slots=True)
class ModuleList:
    """What `modules.json` declares, with the modules' own files read."""

    transformer: str
    """The transformer's folder, relative to the checkpoint's"""
    pooling: PoolingSpec | None
    dense: tuple[DenseSpec, ...]
    normalize: bool


def read_module_list(folder: Path) -> ModuleList | None:
    """None where there is no `modules.json`. Raises UnsupportedCheckpoint for modules that cannot be run here."""
    modules = list_modules(folder)
    if modules is None:
        return None
    kinds = [module.kind for module in modules]
    check_supported(folder, kinds)
    check_order(folder, kinds)
    for module in modules:
        if module.kind == "Normalize":
            check_sentence_vectors(read_object(folder, config_name(module)), "Normalize")
    pooling = [module for module in modules if module.kind == "Pooling"]
    return ModuleList(
        transformer=modules[0].path,
        pooling=read_pooling(folder, pooling[0]) if pooling else None,
        dense=tuple(read_dense(folder, module) for module in modules if module.kind == "Dense"),
        normalize="Normalize" in kinds,
    )


def list_modules(folder: Path) -> list[Module] | None:
    """The modules that count, in order, or None where there is no `modules.json`. Raises UnsupportedCheckpoint."""
    listing = read_json(folder, "modules.json")
    if listing is None:
        return None
    if not isinstance(listing, list) or not listing:
        raise UnsupportedCheckpoint(folder=folder, problem="modules.json is not a list of modules")
    modules = [parse_module(folder, entry) for entry in listing]
    return [module for module in modules if module.kind not in HARMLESS]


def parse_module(folder: Path, entry: object) -> Module:
    values = JsonObject(folder, "modules.json", entry if isinstance(entry, dict) else {})
    name, path = values.text("type"), values.text("path")
    if name is None or path is None:
        values.fail(f"has the entry {entry!r}, which must have 'type' and 'path'")
    package, _, kind = name.rpartition(".")
    is_known = package.split(".")[0] == "sentence_transformers" and kind in SUPPORTED + HARMLESS
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        values.fail(f"has the path {path!r}, which leads out of the folder")
    return Module(kind if is_known else name, path)


def check_supported(folder: Path, kinds: Sequence[str]) -> None:
    for kind in kinds:
        if kind not in SUPPORTED:
            problem = f"modules.json declares the module {kind}, which cannot be run here; these can: "
            raise UnsupportedCheckpoint(folder=folder, problem=problem + ", ".join(SUPPORTED))


def check_order(folder: Path, kinds: Sequence[str]) -> None:
    """Transformer, Pooling (which `--pooling` may stand in for), then any Dense, then any Normalize."""
    alike = ["Transformer" if kind in TRANSFORMERS else kind for kind in kinds]
    order = ("Transformer", "Pooling", "Dense", "Normalize")
    ranks = [order.index(kind) for kind in alike]
    if alike[:1] != ["Transformer"] or ranks != sorted(ranks) or max(map(alike.count, order[:2])) > 1:
        problem = f"modules.json has {' → '.join(kinds)}, but only {' → '.join(order)} can be run, in this order"
        raise UnsupportedCheckpoint(folder=folder, problem=problem)


def config_name(module: Module) -> str:
    return str(PurePosixPath(module.path, "config.json"))


def required_config(folder: Path, module: Module) -> JsonObject:
    config = read_object(folder, config_name(module))
    if config is None:
        raise UnsupportedCheckpoint(folder=folder, problem=f"{config_name(module)} is missing")
    return config


def read_pooling(folder: Path, module: Module) -> PoolingSpec:
    config = required_config(folder, module)
    width = config.positive("embedding_dimension", "word_embedding_dimension")
    if width is None:
        config.fail("has no 'word_embedding_dimension'")
    return PoolingSpec(pooling_modes(config), config.boolean("include_prompt", True), width)


def pooling_modes(config: JsonObject) -> tuple[Pooling, ...]:
    """`pooling_mode` (a name or a list of names), else the older flags, else mean, as sentence-transformers has it."""
    declared = config.values.get("pooling_mode")
    if declared is None:
        known = {"pooling_mode", *POOLING_FLAGS}
        for key in config.values:
            if key.startswith("pooling_mode") and key not in known and config.boolean(key, False):
                config.fail(f"declares {key!r}, a pooling that is not known here")
        modes = [mode for flag, mode in POOLING_FLAGS.items() if config.boolean(flag, False)] or ["mean"]
    else:
        modes = declared if isinstance(declared, list) else [declared]
    if not modes or any(mode not in POOLING_MODES for mode in modes):
        config.fail(f"declares the pooling {declared!r}; known are {', '.join(POOLING_MODES)}")
    return cast("tuple[Pooling, ...]", tuple(modes))


def read_dense(folder: Path, module: Module) -> DenseSpec:
    config = required_config(folder, module)
    check_sentence_vectors(config, "Dense")
    if config.boolean("use_residual", False):
        config.fail("declares a residual Dense module, which cannot be run here")
    sizes = config.positive("in_features"), config.positive("out_features")
    if sizes[0] is None or sizes[1] is None:
        config.fail("must have 'in_features' and 'out_features'")
    return DenseSpec(
        folder=module.path,
        in_features=sizes[0],
        out_features=sizes[1],
        bias=config.boolean("bias", True),
        activation=config.text("activation_function") or "torch.nn.modules.activation.Tanh",
    )


def check_sentence_vectors(config: JsonObject | None, kind: str) -> None:
    """Refuse a module that works on something else than the pooled vector, such as each token's."""
    for key in ("module_input_name", "module_output_name"):
        name = config.text(key) if config else None
        if config and name not in (None, "sentence_embedding"):
            config.fail(f"lets its {kind} module work on {name!r}; only 'sentence_embedding' can be run here")
