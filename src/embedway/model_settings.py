"""The settings of a server → those of each of its models, with the names that requests give it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from embedway.config import Settings, checked_settings
from embedway.errors import InvalidSetting

FIRST_ONLY = ("served_model_name", "revision", "lora_paths")
"""Given for the whole server, they are the first model's; of what else is given so, each model has it"""
SHARED_OUT = {"cache_mb": 8, "max_batch_tokens": 4096}
"""What is divided among several models where nobody gave it → the least that each gets"""


def models_of(settings: Settings) -> list[Settings]:
    """All settings as each model has them, in the order in which the models were given.

    Raises InvalidSetting, also where two models have one name.
    """
    entries = settings.models or [{"model_path": settings.model_path}]
    models = _with_aliases([_entry_of(settings, entries, i) for i in range(len(entries))], settings.alias)
    for i, model in enumerate(models):
        check_names(names_of(model), models[:i])
    return models


def _entry_of(settings: Settings, entries: Sequence[dict[str, Any]], i: int) -> Settings:
    """Raises InvalidSetting, which says of which of the models it is."""
    try:
        return settings_of(settings, entries[i], num_models=len(entries), is_first=i == 0)
    except InvalidSetting as error:
        raise InvalidSetting(setting=f"--models: {entries[i]['model_path']}", problem=error.message) from error


def settings_of(settings: Settings, entry: dict[str, Any], *, num_models: int, is_first: bool = False) -> Settings:
    """One model's: what `entry` says, else what the server's settings say. Raises InvalidSetting."""
    given = settings.model_fields_set | entry.keys()
    values = {name: getattr(settings, name) for name in Settings.model_fields}
    if not is_first:
        values.update({name: Settings.model_fields[name].get_default(call_default_factory=True) for name in FIRST_ONLY})
    if num_models > 1:
        values.update(
            {name: max(least, values[name] // num_models) for name, least in SHARED_OUT.items() if name not in given}
        )
    return checked_settings({**values, "alias": [], "models": [], **entry})


def names_of(settings: Settings) -> tuple[str, ...]:
    """What requests may call the model. The first is the one that the server uses for itself."""
    own = settings.served_model_name or _own_names(settings.model_path)
    return tuple(dict.fromkeys([*own, *settings.alias]))


def check_names(names: Iterable[str], others: Sequence[Settings]) -> None:
    """Raise InvalidSetting where another model has one of the names."""
    taken = {name for other in others for name in names_of(other)}
    if twice := next((name for name in names if name in taken), None):
        problem = f"two models have the name {twice!r}: give one of them another 'served_model_name'"
        raise InvalidSetting(setting="--models", problem=problem)


def _with_aliases(models: Sequence[Settings], aliases: Iterable[str]) -> list[Settings]:
    """The models with the server's aliases: NAME is the first one's, NAME=MODEL that one's. Raises InvalidSetting."""
    more: list[list[str]] = [[] for _ in models]
    for alias in aliases:
        name, equals, target = alias.partition("=")
        places = [i for i, model in enumerate(models) if not equals or target in names_of(model)]
        if not places or not name.strip():
            served = ", ".join(names_of(model)[0] for model in models)
            problem = f"{alias!r} must be NAME or NAME=MODEL, and MODEL one of these: {served}"
            raise InvalidSetting(setting="--alias", problem=problem)
        more[places[0]].append(name)
    return [model.model_copy(update={"alias": [*own, *model.alias]}) for model, own in zip(models, more, strict=True)]


def _own_names(path: str) -> list[str]:
    """The name as the operator gave it; for a folder its last part, too."""
    folder = Path(path)
    return [path, str(folder), folder.name] if folder.is_dir() and folder.name else [path]
