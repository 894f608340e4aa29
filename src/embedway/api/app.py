"""The HTTP application: routes, and the layers around them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from embedway.api import (
    abort_route,
    batch_routes,
    cache_route,
    embeddings,
    file_routes,
    gauges,
    health,
    lora_routes,
    model_list,
    model_routes,
    playground_route,
    restart_route,
    server_info,
    tokenize_routes,
)
from embedway.api.allowed_hosts import AllowedHosts, hosts_to_allow
from embedway.api.auth import BearerAuth
from embedway.api.body_limit import BodyLimit
from embedway.api.body_memory import BodyMemory
from embedway.api.context import ApiContext
from embedway.api.drain import RefuseWhileDraining
from embedway.api.error_response import install_error_handlers
from embedway.api.hot_routes import HotRoutes
from embedway.api.request_context import RequestContext
from embedway.api.schemas import ErrorResponse
from embedway.version import __version__

if TYPE_CHECKING:
    from starlette.types import ASGIApp

BODIES = 4
"""Of the largest size, in memory at once, where --body-memory-mb does not say otherwise"""
ERROR_STATUSES = (400, 401, 403, 404, 405, 409, 413, 415, 421, 429, 500, 503, 504, 507)


def create_core(context: ApiContext) -> ASGIApp:
    """What answers a request that may come in: an ASGI application, to which batches send theirs.

    The context's engine client must be running while it serves.
    """
    app = FastAPI(
        title="Embedway",
        version=__version__,
        description="OpenAI-compatible embeddings. Every error has OpenAI's shape.",
        responses={status: {"model": ErrorResponse} for status in ERROR_STATUSES},
        redirect_slashes=False,
    )
    app.state.context = context
    gauges.show(context)
    install_error_handlers(app)
    for room in (
        embeddings,
        file_routes,
        batch_routes,
        model_list,
        server_info,
        model_routes,
        lora_routes,
        abort_route,
        cache_route,
        restart_route,
        tokenize_routes,
        health,
    ):
        app.include_router(room.router)
    if context.settings.playground:
        app.include_router(playground_route.router)
    settings = context.settings
    hot = HotRoutes(app, routes=embeddings.ROUTES)
    max_bytes = settings.max_body_mb * 2**20
    memory_bytes = settings.body_memory_mb * 2**20 if settings.body_memory_mb else BODIES * max_bytes
    memory = BodyMemory(memory_bytes, on_refusal=lambda: context.metrics.refused("bulk", "memory"))
    return BodyLimit(hot, max_bytes=max_bytes, memory=memory, streamed=frozenset({file_routes.PATH}))


def with_layers(core: ASGIApp, context: ApiContext) -> ASGIApp:
    """The whole application: the core, and who may come in, innermost first."""
    settings, layered = context.settings, core
    if context.keys.users:
        layered = BearerAuth(layered, context.keys)
    layered = RefuseWhileDraining(layered, context.drain)
    if settings.cors_allow_origin:
        layered = CORSMiddleware(
            layered,
            allow_origins=settings.cors_allow_origin,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],  # clients send headers of their own
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    if (hosts := hosts_to_allow(settings.allowed_hosts, settings.host)) is not None:
        layered = AllowedHosts(layered, hosts=hosts)
    return RequestContext(
        layered,
        metrics=context.metrics,
        drain=context.drain,
        request_log=context.request_log,
        tracer=context.tracer,
    )
