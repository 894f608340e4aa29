"""What `embedway models` shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Column, Table

from embedway.models.architectures import KINDS
from embedway.models.known_families import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedway.models.local_models import LocalModel

PLACES = {"hub_cache": "Hub cache", "package": "package"}


def tables(here: Sequence[LocalModel]) -> list[Table]:
    return [kinds(), families(), local(here)]


def kinds() -> Table:
    table = _table("Kinds of models", "kind", "model_type in config.json")
    for kind, model_types in KINDS.items():
        table.add_row(kind, ", ".join(model_types) or "every other one")
    return table


def families() -> Table:
    """Of models whose folder need not declare how they pool"""
    table = _table("Models whose pooling is known where their folder does not declare it", "name", "pooling", "unit")
    for family in FAMILIES:
        table.add_row(readable(family.name), family.pooling, "yes" if family.normalize else "no")
    return table


def local(here: Sequence[LocalModel]) -> Table:
    table = _table("On this machine" if here else "On this machine: none", "name", "place", "size", "model_type")
    for name in ("dimension", "tokens"):
        table.add_column(name, justify="right")
    table.add_column("pooling")
    for model in here:
        place, size, spec = PLACES[model.location.source], in_words(model.num_bytes), model.spec
        if spec is None:
            table.add_row(model.name, place, size, "–", "–", "–", f"cannot be served: {model.problem}")
            continue
        pooling = " + ".join(spec.pooling) or "the model's own"
        table.add_row(model.name, place, size, spec.model_type, str(spec.dimension), str(spec.max_length), pooling)
    return table


def as_json(here: Sequence[LocalModel]) -> dict[str, Any]:
    return {
        "kinds": [{"kind": kind, "model_types": list(types)} for kind, types in KINDS.items()],
        "families": [
            {
                "name_pattern": family.name,
                "model_types": list(family.model_types),
                "pooling": family.pooling,
                "normalize": family.normalize,
            }
            for family in FAMILIES
        ],
        "local": [local_as_json(model) for model in here],
    }


def local_as_json(model: LocalModel) -> dict[str, Any]:
    spec = model.spec
    return {
        "name": model.name,
        "source": model.location.source,
        "folder": str(model.location.folder),
        "revision": model.location.revision,
        "bytes": model.num_bytes,
        "model_type": spec and spec.model_type,
        "dimension": spec and spec.dimension,
        "max_length": spec and spec.max_length,
        "pooling": spec and list(spec.pooling),
        "problem": model.problem,
    }


def readable(pattern: str) -> str:
    """A family's regular expression without what only a machine needs."""
    return pattern.replace("\\", "")


def in_words(num_bytes: int) -> str:
    value, unit = num_bytes / 1024, "KiB"
    for larger in ("MiB", "GiB"):
        if value >= 1024:
            value, unit = value / 1024, larger
    return f"{value:.3g} {unit}" if value < 100 else f"{value:.0f} {unit}"


def _table(title: str, name: str, *columns: str) -> Table:
    """Names are folded where they are too long: they are there to be copied."""
    return Table(
        Column(name, overflow="fold"),
        *columns,
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="dim",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
