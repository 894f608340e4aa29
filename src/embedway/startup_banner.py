"""What the operator reads once the server is ready."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from embedway.model_settings import names_of
from embedway.version import __version__

if TYPE_CHECKING:
    from embedway.model_spec import ModelSpec
    from embedway.serve import ServedModel, Serving

SHOWN_ELSEWHERE = frozenset({"dtype", "device", "threads", "load_seconds"})
"""Facts of the engine that share a row, or have none; the others have a row each."""
SOURCES = {
    "folder": "a local folder",
    "hub_cache": "the Hub cache",
    "package": "an installed data package",
    "download": "downloaded now",
}


def print_banner(serving: Serving) -> None:
    """Print what is served, as it really is, and a line to try it with."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(Text.assemble(("Embedway ", "bold"), __version__, " is ready at ", (_url(serving), "bold cyan")))
    models = [_model_rows(model, is_one_of_several=len(serving.models) > 1) for model in serving.models]
    rows = [*(row for model in models for row in model), *_server_rows(serving)]
    width = max(len(name) for name, _ in rows) + 2
    for name, value in rows:
        console.print(Text.assemble((f"  {name:<{width}}", "dim"), value))
    console.print(Text("  Try it:", style="dim"))
    console.print(Text(_curl(serving)))


def _model_rows(model: ServedModel, *, is_one_of_several: bool) -> list[tuple[str, str]]:
    spec, settings, engine = model.spec, model.settings, model.engine
    rows = [
        ("model", f"{spec.name} ({SOURCES[model.location.source]})"),
        ("revision", spec.revision or "not known"),
        ("pooling", (" + ".join(spec.pooling) or "the model's own") + ", vectors of unit length"),
        ("dimension", _dimension(spec)),
        ("length", f"{spec.max_length} tokens, longer items: {_TOO_LONG[settings.truncate]}"),
        ("weights", f"{engine['dtype']} on {engine['device']}, {engine['threads']} threads"),
        *((name.replace("_", " "), fact) for name, fact in engine.items() if name not in SHOWN_ELSEWHERE),
    ]
    if is_one_of_several:
        rows.insert(1, ("names", ", ".join(names_of(settings))))
        rows.append(("engines", str(settings.replicas)))
    if spec.default_prompt_name is not None:
        rows.append(("prompt", f"{spec.default_prompt_name} by default"))
    elif spec.prompts:
        rows.append(("prompts", ", ".join(spec.prompts) + " (none by default)"))
    return rows


def _server_rows(serving: Serving) -> list[tuple[str, str]]:
    settings = serving.settings
    num_engines = sum(model.settings.replicas for model in serving.models)
    return [
        ("processes", f"{num_engines} engine, {settings.api_workers} API"),
        ("access", _access(serving)),
        *([("playground", f"{_url(serving)}/")] if settings.playground else []),
    ]


_TOO_LONG = {"none": "refused", "end": "cut at the end", "start": "cut at the start"}


def _dimension(spec: ModelSpec) -> str:
    declared = spec.matryoshka_dimensions
    if not declared:
        return str(spec.dimension)
    shown = ", ".join(map(str, declared)) if len(declared) <= 12 else f"any from {declared[0]}"
    return f"{spec.dimension}, or {shown} ('dimensions')"


def _access(serving: Serving) -> str:
    num_keys = len(serving.keys.users)
    return f"{num_keys} API key{'s' * (num_keys > 1)}" if num_keys else "no API key needed"


def _url(serving: Serving) -> str:
    host = f"[{serving.host}]" if ":" in serving.host else serving.host
    scheme = "http" if serving.settings.ssl_certfile is None else "https"
    return f"{scheme}://{host}:{serving.port}"


def _curl(serving: Serving) -> str:
    [name, *_] = names_of(serving.models[0].settings)
    body = json.dumps({"model": name, "input": "The quick brown fox jumps over the lazy dog"})
    key = ' -H "Authorization: Bearer $API_KEY"' if serving.keys.users else ""
    return f"  curl {_url(serving)}/v1/embeddings{key} -H 'Content-Type: application/json' -d '{body}'"
