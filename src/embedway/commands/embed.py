"""`embedway embed`: files in, files with vectors out."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import signal
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from embedway.commands.check import MODEL_SETTINGS
from embedway.commands.json_output import print_json
from embedway.commands.setting_options import given_settings
from embedway.config import Settings, load_settings
from embedway.errors import FilesNotInstalled, Interrupted, InvalidSetting, RequestError
from embedway.observability.logs import configure_logging
from embedway.outputs.output_dtype import OutputDtype

if TYPE_CHECKING:
    from embedway.files.run import VectorForm
    from embedway.files.vectors import Vectors

EMBED_SETTINGS = (*MODEL_SETTINGS, "dtype", "matryoshka", "truncate", "max_batch_tokens", "target_batch_ms")
SERVER_SETTINGS = ("model_path", "truncate")
"""Those that requests have, too"""
KEY_VARIABLES = ["EMBEDWAY_CLIENT_API_KEY", "OPENAI_API_KEY"]
FORMATS = ("jsonl", "csv", "parquet", "text", "images")


def embed(
    config: Path | None,
    *,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT… [MODEL]",
            help="Files (.jsonl, .csv, .tsv, .parquet, .txt; compressed too) or folders of them or of images: paths, "
            "or URLs such as s3://bucket/name. The model may stand last, as in 'serve': a Hugging Face id or a folder.",
            show_default=False,
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="OUTPUT",
            help="Where the vectors go: a .parquet, .jsonl, .npy or .npz file or URL, or DATABASE/TABLE.lance.",
            show_default=False,
        ),
    ],
    input_format: Annotated[
        str | None, typer.Option(metavar="|".join(FORMATS), help="The inputs' format. By default told by their names.")
    ] = None,
    text_column: Annotated[str, typer.Option(help="The column that is embedded.")] = "text",
    key_column: Annotated[
        str | None,
        typer.Option(help="The column that names a row. By default 'id', and the row's number where there is none."),
    ] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="NAME,NAME,…", help="Columns to keep beside the key. By default all.")
    ] = None,
    vector_column: Annotated[
        str | None, typer.Option(help="The column of the vectors. By default 'embedding'; 'vector' in LanceDB.")
    ] = None,
    input_type: Annotated[str | None, typer.Option(help="As in requests: query or document.")] = None,
    prompt_name: Annotated[str | None, typer.Option(help="One of the model's prompts.")] = None,
    prompt: Annotated[str | None, typer.Option(help="What to put before each text.")] = None,
    dimensions: Annotated[int | None, typer.Option(min=1, help="The length of the vectors.")] = None,
    normalize: Annotated[bool, typer.Option(help="Give vectors the length 1.")] = True,
    output_dtype: Annotated[
        str, typer.Option(metavar="|".join(get_args(OutputDtype)), help="The vectors' type.")
    ] = "float32",
    chunk_rows: Annotated[int, typer.Option(min=1, help="Rows of a part: the most that is done twice.")] = 2048,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="End at the first bad row.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that is there.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew where an earlier run has not ended.")] = False,
    url: Annotated[
        str | None,
        typer.Option(help="Have a running server do it: its address, or any OpenAI-compatible base URL (…/v1)."),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(envvar=KEY_VARIABLES, show_envvar=True, help="For --url: sent as a bearer token."),
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=1024, help="For --url: requests at a time.")] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON, and nothing else.")] = False,
    **flags: Any,
) -> None:
    """Embed the rows of files into a file.

    A run that was killed goes on where it was when the same command is given again. Rows that cannot be embedded are
    listed in OUTPUT.errors.jsonl, with the reason.

    Exit status: 0 also with such rows, 1 where --fail-fast met one, 2 where it cannot be done.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise FilesNotInstalled(what="embedway embed", package="pyarrow", extra="files")
    inputs, model_name = without_model(inputs)
    if model_name is not None and flags.get("model_path") is not None:
        problem = f"is given together with {model_name!r} after the inputs: name the model once"
        raise InvalidSetting(setting="--model", problem=problem)
    given = given_settings(model_name, flags)
    if url is not None and (name := next((name for name in given if name not in SERVER_SETTINGS), None)):
        problem = "with --url it is the server's to say: leave it out"
        raise InvalidSetting(setting=f"--{name.replace('_', '-')}", problem=problem)
    settings = load_settings(given, config)
    configure_logging("error", process="embed")
    from embedway.files import report
    from embedway.files.joining import output_format
    from embedway.files.locations import locate
    from embedway.files.parts import Parts
    from embedway.files.reading import find_sources
    from embedway.files.run import Plan, Progress, VectorForm, is_own, run
    from embedway.files.texts import Columns

    place = locate(output, "--output")
    kind = output_format(place)
    fields: dict[str, Any] = {"input_type": input_type, "prompt_name": prompt_name, "prompt": prompt}
    fields = {name: value for name, value in fields.items() if value is not None}
    form = VectorForm(dimensions, normalize, _one_of("--output-dtype", output_dtype, get_args(OutputDtype)))
    chosen_format = None if input_format is None else _one_of("--input-format", input_format, FORMATS)
    sources = find_sources(inputs, chosen_format, functools.partial(is_own, place))
    kept = None if columns is None else tuple(name.strip() for name in columns.split(","))
    names = Columns(text_column, key_column, kept, vector_column or ("vector" if kind == "lance" else "embedding"))
    parts = Parts(place)
    with _interruptible(), parts.locked():
        if restart:
            parts.drop()
        if place.exists and not overwrite and not parts.has_begun:
            raise InvalidSetting(setting="--output", problem=f"{output} is there already: --overwrite replaces it")
        if settings.dtype == "auto":  # is measured, and need not come out the same when a run goes on
            before = parts.manifest().get("model", {})
            settings = settings.model_copy(update={"dtype": before.get("dtype", "auto")})
        with _vectors(settings, form, fields, url, api_key, concurrency) as (vectors, form, model):
            plan = Plan(
                sources=sources,
                output=place,
                columns=names,
                form=form,
                piece_rows=chunk_rows,
                fail_fast=fail_fast,
                manifest={
                    "inputs": [[source.name, source.format, source.identity] for source in sources],
                    "columns": [names.text, names.key, names.kept, names.vector],
                    "model": model,
                    "vectors": [form.dimensions, form.normalize, form.output_dtype, fields],
                },
            )
            progress = Progress(sum(source.size for source in sources))
            with report.shown(progress, is_quiet=as_json) as shown:
                run(plan, vectors, progress, shown.update)
    if as_json:
        print_json(shown.as_json(output))
    else:
        shown.print_end(output)


def without_model(arguments: list[str]) -> tuple[list[str], str | None]:
    """The inputs, and the model where one stands behind them: a checkpoint's folder, or a Hub id that is no path here
    and does not end as a file of rows."""
    from embedway.files.reading import is_named_as_rows
    from embedway.models.checkpoint_location import HUB_ID

    *inputs, last = arguments
    path = Path(last)
    is_model = is_checkpoint(path) if path.exists() else "/" in last and bool(HUB_ID.fullmatch(last))
    return (inputs, last) if inputs and is_model and not is_named_as_rows(last) else (arguments, None)


def is_checkpoint(path: Path) -> bool:
    return (path / "modules.json").is_file() or (path / "config.json").is_file()


@contextlib.contextmanager
def _interruptible() -> Generator[None]:
    """Let SIGTERM end the block as Ctrl-C does, in the order of its `finally`s. Raises Interrupted after either."""
    received = [signal.SIGINT]

    def interrupt(number: int, _: object) -> None:
        received.append(signal.Signals(number))
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(received[-1]) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _one_of(setting: str, given: str, known: tuple[Any, ...]) -> Any:
    if given not in known:
        raise InvalidSetting(setting=setting, problem=f"{given!r} is none of {', '.join(known)}")
    return given


@contextlib.contextmanager
def _vectors(
    settings: Settings,
    form: VectorForm,
    fields: dict[str, Any],
    url: str | None,
    api_key: str | None,
    concurrency: int,
) -> Generator[tuple[Vectors, VectorForm, dict[str, Any]]]:
    """Where vectors come from, what they are made into, and what else changes them. Raises StartupError."""
    if url is None:
        from embedway.files.local_model import load_vectors

        try:
            loaded = load_vectors(settings, form, fields)
        except RequestError as error:
            flag = (error.param or "model").replace("_", "-")
            raise InvalidSetting(setting=f"--{flag}", problem=error.message) from error
        yield loaded
        return
    from embedway.files.remote_vectors import RemoteOptions, RemoteVectors
    from embedway.load_test.target import read_target

    if form.dimensions is not None:
        fields = {**fields, "dimensions": form.dimensions}
    if settings.truncate != "none":
        fields = {**fields, "truncate": settings.truncate}
    target = read_target(url, api_key)
    model = settings.model_path if "model_path" in settings.model_fields_set else None
    vectors = RemoteVectors(target, RemoteOptions(model, fields, concurrency))
    try:
        yield vectors, form, {"url": target.url, "model": vectors.model, "truncate": settings.truncate}
    finally:
        vectors.close()
