"""Settings → options of a command: names, help and defaults come from `config.py`, none is declared here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from pydantic.fields import FieldInfo

from embedway.config import Settings, flags_of, group_of
from embedway.errors import InvalidSetting


def with_settings(
    command: Callable[..., None], names: Iterable[str] = Settings.model_fields, *, has_model_argument: bool = True
) -> Callable[..., None]:
    """Give a command a model, a config file and an option for each of these settings, as Typer reads them: from its
    signature. Arguments and options of its own are its keyword-only parameters. Where `models` is a setting it takes
    several models.
    """
    names = list(names)
    kind, text = (str, "The model: the same as --model-path.")
    if "models" in names:
        kind, text = (list[str], "The model: the same as --model-path. Several: the same as --models for each.")
    model = typer.Argument(help=text, show_default=False, autocompletion=models_here)
    argument = inspect.Parameter(
        "model", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, model]
    )
    parameters = [
        *([argument] if has_model_argument else []),
        inspect.Parameter(
            "config",
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                Path | None, typer.Option("--config", help="A .yaml or .toml file with settings.", show_default=False)
            ],
        ),
        *_own_parameters(command),
        *(_parameter(name, Settings.model_fields[name]) for name in names),
    ]

    def run(**arguments: Any) -> None:
        command(**arguments)

    run.__doc__ = command.__doc__
    run.__signature__ = inspect.Signature(parameters)  # ty: ignore[missing-attribute] - read by inspect
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def given_settings(model: str | Sequence[str] | None, flags: Mapping[str, Any]) -> dict[str, Any]:
    """What the command line says, for `load_settings`: an option that was not given is None.

    `model` is the command's argument, or its arguments. Raises InvalidSetting where options name models, too.
    """
    given = {name: value for name, value in flags.items() if value not in (None, [])}
    models = [model] if isinstance(model, str) else list(model or ())
    if not models:
        return given
    if "models" in given:
        raise InvalidSetting(setting="--models", problem="is given together with MODEL: name all models in one way")
    return {**given, "model_path": models[0]} if len(models) == 1 else {**given, "models": models}


def models_here() -> list[str]:
    """For the shell's completion of a model's name, which looks for the ones that fit."""
    from embedway.models.local_models import names_here

    return names_here()


def _own_parameters(command: Callable[..., None]) -> Iterator[inspect.Parameter]:
    annotations = get_type_hints(command, include_extras=True)
    for parameter in inspect.signature(command).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            yield parameter.replace(annotation=annotations[parameter.name])


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    """One setting as an option. It has no default here: what is not given is left to `load_settings`."""
    is_list = get_origin(field.annotation) is list
    default = field.get_default(call_default_factory=True)
    names = flags_of(name, field)
    is_flag = field.annotation is bool
    choices = _choices(field.annotation)
    option = typer.Option(
        *([f"{names[0]}/--no-{names[0][2:]}", *names[1:]] if is_flag else names),
        help=field.description,
        rich_help_panel=group_of(field),
        show_default=_shown_default(default),
        metavar=None if is_flag else "|".join(choices) or _metavar(field.annotation),
        autocompletion=(lambda: choices) if choices else models_here if name in ("model_path", "models") else None,
    )
    kind: Any = list[str] if is_list else (bool if is_flag else str)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _shown_default(default: object) -> str | bool:
    if default is None or default == []:
        return False
    return str(default).lower() if isinstance(default, bool) else str(default)


def _kinds(annotation: Any) -> list[Any]:
    return [kind for kind in (get_args(annotation) or (annotation,)) if kind is not type(None)]


def _choices(annotation: Any) -> list[str]:
    """The values of a setting that has few."""
    return [choice for kind in _kinds(annotation) for choice in (get_args(kind) or (kind,)) if isinstance(choice, str)]


def _metavar(annotation: Any) -> str:
    """The kind of value."""
    names = {int: "N", float: "SECONDS", Path: "FOLDER"}
    return names.get(_kinds(annotation)[0], "TEXT")
