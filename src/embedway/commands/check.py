"""`embedway check`: are our vectors those of transformers, on this machine?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from embedway.commands.json_output import print_json
from embedway.commands.setting_options import given_settings
from embedway.config import Dtype, load_settings
from embedway.errors import InvalidSetting
from embedway.model_settings import models_of
from embedway.observability.logs import configure_logging

if TYPE_CHECKING:
    from collections.abc import Sequence

MODEL_SETTINGS = (
    *("model_path", "revision", "download_dir", "device", "pooling", "max_length", "chat_template"),
    *("trust_remote_code", "threads"),
)
"""Those of `serve` that change a model's vectors, or how it is found"""
TYPES: tuple[Dtype, ...] = ("float32", "bfloat16", "float16")


def check(
    model: str | None,
    config: Path | None,
    *,
    dtype: Annotated[
        list[str] | None,
        typer.Option(
            metavar="|".join(get_args(Dtype)),
            help="A type of the weights to compare; several may be given. By default all but auto.",
            autocompletion=lambda: list(get_args(Dtype)),
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON, and nothing else.")] = False,
    **flags: Any,
) -> None:
    """Compare a model's vectors with those of sentence-transformers or transformers, on this machine.

    Exit status: 0, 1 where they deviate, 2 where they cannot be compared. Needs the extra 'torch'.
    """
    [settings, *others] = models_of(load_settings(given_settings(model, flags), config))
    if others:
        raise InvalidSetting(setting="--models", problem="one model is checked at a time: name it as MODEL")
    configure_logging("error", process="check")
    dtypes = _types(dtype or TYPES)

    from rich.console import Console
    from rich.text import Text

    from embedway.comparison import report
    from embedway.comparison.model_check import check_model

    with Console(stderr=True).status("Looking for the model …") as status:
        checked = check_model(settings, dtypes, lambda step: status.update(Text(f"{settings.model_path}: {step} …")))
    if as_json:
        print_json(report.as_json(checked))
    else:
        report.print_check(Console(highlight=False, markup=False), checked)
    raise typer.Exit(0 if checked.passes else 1)


def _types(given: Sequence[str]) -> list[Dtype]:
    known: tuple[Dtype, ...] = get_args(Dtype)
    found = [name for name in known if name in given]
    if unknown := next((name for name in given if name not in known), None):
        raise InvalidSetting(setting="--dtype", problem=f"{unknown!r} is none of {', '.join(known)}")
    return found
