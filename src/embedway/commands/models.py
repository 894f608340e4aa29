"""`embedway models`: what can be served, and what is here already."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedway.commands.json_output import print_json


def models(
    download_dir: Annotated[
        Path | None, typer.Option(help="Folder for downloaded models. By default the Hub cache.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """List the kinds of models that are known, and those that are on this machine: nothing is asked of the network."""
    from rich.console import Console

    from embedway.commands.model_tables import as_json as to_json
    from embedway.commands.model_tables import tables
    from embedway.models.local_models import local_models

    here = local_models(download_dir)
    if as_json:
        print_json(to_json(here))
        return
    console = Console(highlight=False, markup=False)
    for table in tables(here):
        console.print(table)
        console.print()
