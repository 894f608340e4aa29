"""The command line. The options of `serve` come from `config.py`; the other commands are in `commands/`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from embedway.commands.bench import bench
from embedway.commands.check import MODEL_SETTINGS, check
from embedway.commands.embed import EMBED_SETTINGS, embed
from embedway.commands.models import models
from embedway.commands.plan import plan
from embedway.commands.setting_options import given_settings, with_settings
from embedway.config import Settings, forget_secrets, load_settings
from embedway.errors import ClusterNotInstalled, StartupError
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


def _serve(model: list[str] | None, config: Path | None, **flags: Any) -> None:
    """Serve a model over HTTP, or several.

    Every option can also be an environment variable (EMBEDWAY_PORT=8000) or a line of the config file (port: 8000).
    """
    from embedway.child_process import ChildFailed
    from embedway.serve import serve
    from embedway.startup_banner import print_banner

    settings = load_settings(given_settings(model, flags), config)
    forget_secrets()
    configure_logging(settings.log_level, process="supervisor", log_format=settings.log_format)
    try:
        status = _serve_on_ray(settings) if settings.ray else serve(settings, on_ready=print_banner)
    except ChildFailed as error:
        status = _fail(str(error), 1)
    except KeyboardInterrupt:
        status = 130
    raise typer.Exit(status)


def _serve_on_ray(settings: Settings) -> int:
    """Raises ClusterNotInstalled, InvalidSetting or ClusterFailed."""
    if importlib.util.find_spec("ray") is None:
        raise ClusterNotInstalled
    from embedway.cluster.serving import serve_on_ray

    return serve_on_ray(settings)


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


app.command("serve")(with_settings(_serve))
app.command("check")(with_settings(check, MODEL_SETTINGS))
app.command("embed")(with_settings(embed, EMBED_SETTINGS, has_model_argument=False))
app.command("bench")(bench)
app.command("models")(models)
app.command("plan")(plan)


def main() -> int:
    """Run the command line; what cannot be done as it was asked for is one line and exit status 2."""
    try:
        return app(prog_name="embedway", standalone_mode=False) or 0
    except CommandLineError as error:
        # A bare `embedway` has printed its help, and has nothing to add.
        return _fail(error.format_message(), 2) if error.format_message() else 2
    except StartupError as error:
        return _fail(error.message, error.exit_status)
    except typer.Abort:
        return 130


if __name__ == "__main__":
    sys.exit(main())
