"""What is served: /v1/models, /model_info and /server_info."""

from __future__ import annotations

import importlib.metadata
import time
from typing import Any

import msgspec
from fastapi import APIRouter, Request

from embedway.api.context import ApiContext, context_of
from embedway.version import __version__

router = APIRouter(tags=["Models"])


@router.get("/v1/models", summary="List the served models")
async def list_models(request: Request) -> dict[str, Any]:
    context = context_of(request)
    return {"object": "list", "data": [_card(context, name) for name in context.model.names]}


@router.get("/v1/models/{model:path}", summary="One served model")
async def get_model(request: Request, model: str) -> dict[str, Any]:
    context = context_of(request)
    context.model.check(model)
    return _card(context, model)


@router.get("/model_info", summary="What the checkpoint declares")
@router.get("/get_model_info", include_in_schema=False)
async def model_info(request: Request) -> dict[str, Any]:
    context = context_of(request)
    spec = context.model.spec
    return {
        "model_path": spec.name,
        "tokenizer_path": spec.name,
        "served_model_name": context.model.names[0],
        "revision": spec.revision,
        "is_generation": False,
        "model_type": spec.model_type,
        "has_image_understanding": False,
        "has_audio_understanding": False,
        "max_model_len": spec.max_length,
        "embedding": {
            "dimension": spec.dimension,
            "pooling": list(spec.pooling),
            "normalize": True,
            "supports_dimensions": bool(spec.matryoshka_dimensions) or context.settings.matryoshka,
            "matryoshka_dimensions": list(spec.matryoshka_dimensions),
            "prompts": spec.prompts,
            "default_prompt_name": spec.default_prompt_name,
        },
    }


@router.get("/server_info", summary="Settings, versions and the state of the engines")
@router.get("/get_server_info", include_in_schema=False)
async def server_info(request: Request) -> dict[str, Any]:
    context = context_of(request)
    settings = context.settings.model_dump(mode="json", exclude={"api_key"})
    engines = [None if status is None else msgspec.structs.asdict(status) for status in context.engine.statuses()]
    return {
        "version": __version__,
        "versions": {name: _installed_version(name) for name in ("tokenizers", "transformers", "torch")},
        "uptime_seconds": round(time.time() - context.started_at, 1),
        "api_key_required": bool(context.settings.api_key),
        "settings": settings,
        "engines": engines,
    }


def _installed_version(package: str) -> str | None:
    """None where it is not installed: torch and transformers are an extra."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _card(context: ApiContext, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": context.started_at,
        "owned_by": "embedway",
        "root": context.model.spec.name,
        "parent": None,
        "max_model_len": context.model.spec.max_length,
    }
