"""What is served: /v1/models and /model_info."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, Request

from embedway.adapter_ref import AdapterRef
from embedway.api.context import ApiContext, context_of
from embedway.api.served_models import ServedModel

router = APIRouter(tags=["Models"])


@router.get("/v1/models", summary="List the served models")
async def list_models(request: Request) -> dict[str, Any]:
    """One that is unavailable is listed, and says so in `status`."""
    context = context_of(request)
    return {"object": "list", "data": [card for model in context.models for card in _cards(context, model)]}


@router.get("/v1/models/{model:path}", summary="One served model")
async def get_model(request: Request, model: str) -> dict[str, Any]:
    context = context_of(request)
    served, adapter = context.models.find(model)
    if adapter is None:
        return model_card(context, served, model)
    return _adapter_card(context, served, model, served.adapters.find(adapter, param="model"))


@router.get("/model_info", summary="What the checkpoint declares")
@router.get("/get_model_info", include_in_schema=False)
async def model_info(request: Request, model: str | None = None) -> dict[str, Any]:
    """Of the model of this name; without one, of the first."""
    served = context_of(request).models.named(model)
    spec = served.spec
    return {
        "model_path": spec.name,
        "tokenizer_path": spec.name,
        "served_model_name": served.name,
        "revision": spec.revision,
        "is_generation": False,
        "model_type": spec.model_type,
        "has_image_understanding": spec.vision is not None,
        "has_audio_understanding": False,
        "max_model_len": spec.max_length,
        "embedding": {
            "dimension": spec.dimension,
            "pooling": list(spec.pooling),
            "normalize": True,
            "supports_dimensions": bool(spec.matryoshka_dimensions) or served.settings.matryoshka,
            "matryoshka_dimensions": list(spec.matryoshka_dimensions),
            "prompts": spec.prompts,
            "default_prompt_name": spec.default_prompt_name,
        },
    }


def _cards(context: ApiContext, model: ServedModel) -> Iterator[dict[str, Any]]:
    for name in model.names:
        yield model_card(context, model, name)
    for name, ref in model.adapters.all().items():
        yield _adapter_card(context, model, model.name_with(name), ref)


def _adapter_card(context: ApiContext, model: ServedModel, name: str, ref: AdapterRef) -> dict[str, Any]:
    base = name.removesuffix(f":{ref.name}")
    return {**model_card(context, model, base), "id": name, "root": ref.folder, "parent": base}


def model_card(context: ApiContext, model: ServedModel, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": context.started_at,
        "owned_by": "embedway",
        "root": model.spec.name,
        "parent": None,
        "max_model_len": model.spec.max_length,
        "status": model.status,
    }
