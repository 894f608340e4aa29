"""The command line. Options come from `config.py`: none is declared here."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer
from pydantic.fields import FieldInfo
from rich.console import Console
from rich.text import Text

from embedway.config import Settings, flags_of, group_of, load_settings
from embedway.errors import StartupError
from embedway.observability.logs import configure_logging
from embedway.version import __version__

CommandLineError: Any = typer.BadParameter.__mro__[2]
"""What Typer raises for any wrong command line: its name and home differ between Typer's versions."""

app = typer.Typer(
    name="embedway",
    help="Embeddings inference server: OpenAI's /v1/embeddings for text, correct to sentence-transformers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _serve(model: str | None, config: Path | None, **flags: Any) -> None:
    """Serve a model over HTTP.

    Every option can also be an environment variable (EMBEDWAY_PORT=8000) or a line of the config file (port: 8000).
    """
    from embedway.child_process import ChildFailed
    from embedway.serve import serve
    from embedway.startup_banner import print_banner

    given = {name: value for name, value in flags.items() if value not in (None, [])}
    if model is not None:
        given["model_path"] = model
    try:
        settings = load_settings(given, config)
        configure_logging(settings.log_level, process="supervisor")
        status = serve(settings, on_ready=print_banner)
    except StartupError as error:
        status = _fail(error.message, error.exit_status)
    except ChildFailed as error:
        status = _fail(str(error), 1)
    except KeyboardInterrupt:
        status = 130
    raise typer.Exit(status)


def _fail(sentence: str, status: int) -> int:
    """Say what is wrong in one line on stderr; return the exit status."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(Text.assemble(("Error: ", "bold red"), " ".join(sentence.split())))
    return status


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"embedway {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for every setting, as Typer reads them: from its signature."""
    parameters = [
        inspect.Parameter(
            "model",
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                str | None, typer.Argument(help="The model: the same as --model-path.", show_default=False)
            ],
        ),
        inspect.Parameter(
            "config",
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                Path | None, typer.Option("--config", help="A .yaml or .toml file with settings.", show_default=False)
            ],
        ),
        *(_parameter(name, field) for name, field in Settings.model_fields.items()),
    ]

    def run(**arguments: Any) -> None:
        command(**arguments)

    run.__doc__ = command.__doc__
    run.__signature__ = inspect.Signature(parameters)  # ty: ignore[missing-attribute] - read by inspect
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    """One setting as an option. It has no default here: what is not given is left to `load_settings`."""
    is_list = get_origin(field.annotation) is list
    default = field.get_default(call_default_factory=True)
    names = flags_of(name, field)
    is_flag = field.annotation is bool
    option = typer.Option(
        *([f"{names[0]}/--no-{names[0][2:]}", *names[1:]] if is_flag else names),
        help=field.description,
        rich_help_panel=group_of(field),
        show_default=_shown_default(default),
        metavar=None if is_flag else _metavar(field.annotation),
    )
    kind: Any = list[str] if is_list else (bool if is_flag else str)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _shown_default(default: object) -> str | bool:
    if default is None or default == []:
        return False
    return str(default).lower() if isinstance(default, bool) else str(default)


def _metavar(annotation: Any) -> str:
    """The choices where there are some, else the kind of value."""
    kinds = [kind for kind in (get_args(annotation) or (annotation,)) if kind is not type(None)]
    choices = [choice for kind in kinds for choice in (get_args(kind) or (kind,)) if isinstance(choice, str)]
    if choices:
        return "|".join(choices)
    names = {int: "N", float: "SECONDS", Path: "FOLDER"}
    return names.get(kinds[0], "TEXT")


app.command("serve")(_with_settings(_serve))


def main() -> int:
    """Run the command line; a wrong flag is one line and exit status 2."""
    try:
        return app(prog_name="embedway", standalone_mode=False) or 0
    except CommandLineError as error:
        # A bare `embedway` has printed its help, and has nothing to add.
        return _fail(error.format_message(), 2) if error.format_message() else 2
    except typer.Abort:
        return 130


if __name__ == "__main__":
    sys.exit(main())
