"""What is served: /v1/models and /model_info."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from embedway.adapter_ref import AdapterRef
from embedway.api.context import ApiContext, context_of

router = APIRouter(tags=["Models"])


@router.get("/v1/models", summary="List the served models")
async def list_models(request: Request) -> dict[str, Any]:
    context = context_of(request)
    adapters = [
        _adapter_card(context, context.model.name_with(name), ref) for name, ref in context.adapters.all().items()
    ]
    return {"object": "list", "data": [*(_card(context, name) for name in context.model.names), *adapters]}


@router.get("/v1/models/{model:path}", summary="One served model")
async def get_model(request: Request, model: str) -> dict[str, Any]:
    context = context_of(request)
    adapter = context.model.adapter_in(model)
    if adapter is None:
        return _card(context, model)
    return _adapter_card(context, model, context.adapters.find(adapter, param="model"))


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
        "has_image_understanding": spec.vision is not None,
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


def _adapter_card(context: ApiContext, name: str, ref: AdapterRef) -> dict[str, Any]:
    base = name.removesuffix(f":{ref.name}")
    return {**_card(context, base), "id": name, "root": ref.folder, "parent": base}


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
