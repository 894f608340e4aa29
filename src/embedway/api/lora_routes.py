"""Loading and unloading LoRA adapters while the server runs, as SGLang's clients do it, and vLLM's under /v1/."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from embedway.api.auth import require_admin
from embedway.api.body_forms import LOAD_ADAPTER, UNLOAD_ADAPTER
from embedway.api.body_reader import read_fields
from embedway.api.context import context_of
from embedway.api.schemas import PLAIN, LoadAdapterRequest, UnloadAdapterRequest, json_request
from embedway.api.served_models import ServedModel

router = APIRouter(tags=["LoRA adapters"])
LOAD, UNLOAD = json_request(LoadAdapterRequest), json_request(UnloadAdapterRequest)


@router.post("/load_lora_adapter", summary="Load a LoRA adapter (admin key)", openapi_extra=LOAD)
async def load_adapter(request: Request) -> dict[str, Any]:
    model, _ = await _load(request)
    return _outcome(model)


@router.post("/unload_lora_adapter", summary="Unload a LoRA adapter (admin key)", openapi_extra=UNLOAD)
async def unload_adapter(request: Request) -> dict[str, Any]:
    model, _ = await _unload(request)
    return _outcome(model)


@router.post("/v1/load_lora_adapter", summary="The same, as vLLM", responses=PLAIN, openapi_extra=LOAD)
async def load_adapter_as_vllm(request: Request) -> Response:
    _, name = await _load(request)
    return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")


@router.post("/v1/unload_lora_adapter", summary="The same, as vLLM", responses=PLAIN, openapi_extra=UNLOAD)
async def unload_adapter_as_vllm(request: Request) -> Response:
    _, name = await _unload(request)
    return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")


async def _load(request: Request) -> tuple[ServedModel, str]:
    """The model, and the adapter's name."""
    context = context_of(request)
    require_admin(request.scope, context.keys)
    body = await read_fields(request, LOAD_ADAPTER)
    model = context.models.named(body.model)
    model.check_available()
    await model.adapters.load(body.lora_name, body.lora_path, pinned=body.pinned or False)
    return model, body.lora_name


async def _unload(request: Request) -> tuple[ServedModel, str]:
    """The same."""
    context = context_of(request)
    require_admin(request.scope, context.keys)
    body = await read_fields(request, UNLOAD_ADAPTER)
    model = context.models.named(body.model)
    await model.adapters.unload(body.lora_name)
    return model, body.lora_name


def _outcome(model: ServedModel) -> dict[str, Any]:
    loaded = {name: ref.folder for name, ref in model.adapters.all().items()}
    return {"success": True, "error_message": "", "loaded_adapters": loaded}
