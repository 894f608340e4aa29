"""POST /load_model and /unload_model: an operator changes which models are served, beside those that are."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request

from embedway.allowed_folders import resolve_within
from embedway.api.auth import require_admin
from embedway.api.body_forms import LOAD_MODEL, UNLOAD_MODEL
from embedway.api.body_reader import read_fields
from embedway.api.context import context_of
from embedway.api.model_list import model_card
from embedway.api.schemas import LoadModelRequest, UnloadModelRequest, json_request
from embedway.config import Settings
from embedway.errors import InvalidSetting, InvalidValue, ModelRefused, PathNotAllowed
from embedway.model_settings import models_of, names_of, settings_of
from embedway.models.checkpoint_location import HUB_ID, looks_like_a_folder

router = APIRouter(tags=["Models"])

LONGEST_NAME = 512
"""Characters: it may be a path."""
SETTINGS = (
    *("served_model_name", "revision", "dtype", "device", "pooling", "max_length", "matryoshka", "truncate"),
    *("max_loaded_loras", "max_lora_rank", "max_queued_tokens", "max_queued_requests", "replicas", "threads"),
    *("target_batch_ms", "max_batch_tokens", "cache_mb"),
)
"""What a request may set: none of it names a file, or runs a model's own code"""


@router.post("/load_model", summary="Load a model (admin key)", openapi_extra=json_request(LoadModelRequest))
async def load_model(request: Request) -> dict[str, Any]:
    """200 once all API processes serve it; that may take minutes. 409 where one of its names is served already."""
    context = context_of(request)
    require_admin(request.scope, context.keys)
    body = await read_fields(request, LOAD_MODEL)
    entry = entry_of(body)
    entry["model_path"] = await asyncio.to_thread(allowed_model, body.model, context.settings)
    try:
        [name, *_] = names_of(settings_of(context.settings, entry, num_models=len(context.models) + 1))
    except InvalidSetting as error:
        raise ModelRefused(param="settings", name=body.model, problem=error.message) from error
    await context.orders.load(entry)
    return {"status": "loaded", "model": model_card(context, context.models.named(name), name)}


@router.post("/unload_model", summary="Unload a model (admin key)", openapi_extra=json_request(UnloadModelRequest))
async def unload_model(request: Request) -> dict[str, Any]:
    """200 once its requests have been answered, for which they have the drain timeout, and its engines have ended."""
    context = context_of(request)
    require_admin(request.scope, context.keys)
    body = await read_fields(request, UNLOAD_MODEL)
    model = context.models.named(body.model)
    await context.orders.unload(model.name)
    return {"status": "unloaded", "names": list(model.names)}


def entry_of(body: LoadModelRequest) -> dict[str, Any]:
    """The request as an entry of `Settings.models`, but for the model itself. Raises InvalidValue."""
    aliases = [body.alias] if isinstance(body.alias, str) else body.alias or []
    for name in (body.model, *aliases):
        if not name.isprintable() or name != name.strip() or not 0 < len(name) <= LONGEST_NAME:
            problem = f"must be 1 to {LONGEST_NAME} printable characters, without blanks around them"
            raise InvalidValue(param="model" if name == body.model else "alias", problem=problem)
    given = {name.replace("-", "_"): value for name, value in (body.settings or {}).items()}
    for name in given:
        if name not in SETTINGS:
            problem = f"cannot be set for a model that is loaded so; these can: {', '.join(SETTINGS)}"
            raise InvalidValue(param=f"settings.{name}", problem=problem)
    return {**given, "alias": aliases}


def allowed_model(name: str, settings: Settings) -> str:
    """The model's id or the place of its folder, if requests may name it: below a --model-root, or given at the start.

    Raises PathNotAllowed, or InvalidValue for what is neither.
    """
    if any(name == model.model_path for model in models_of(settings)):
        return name
    if not looks_like_a_folder(name):
        if not HUB_ID.fullmatch(name):
            raise InvalidValue(param="model", problem="is neither a Hugging Face id nor the path of a folder")
        return name
    if not settings.model_root:
        raise PathNotAllowed(param="model", problem="the server was started without --model-root")
    folder = resolve_within(str(Path(name).expanduser().absolute()), settings.model_root)
    if folder is None:
        raise PathNotAllowed(param="model", problem="it is outside of every --model-root")
    if not folder.is_dir():
        raise InvalidValue(param="model", problem="names no folder that is there")
    for path in folder.rglob("*"):
        if path.is_symlink() and resolve_within(str(path), settings.model_root) is None:
            raise PathNotAllowed(param="model", problem="a file in it is a link that leads out of every --model-root")
    return str(folder)
