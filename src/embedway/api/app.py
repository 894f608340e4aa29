"""The HTTP application: routes, and the layers around them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.middleware.cors import CORSMiddleware

from embedway.api import embeddings, health, model_list, tokenize_routes
from embedway.api.auth import BearerAuth
from embedway.api.body_limit import BodyLimit
from embedway.api.context import ApiContext
from embedway.api.error_response import install_error_handlers
from embedway.api.hot_routes import HotRoutes
from embedway.api.request_context import RequestContext
from embedway.api.schemas import ErrorResponse
from embedway.version import __version__

if TYPE_CHECKING:
    from starlette.types import ASGIApp

ERROR_STATUSES = (400, 401, 404, 405, 413, 415, 500, 503)


def create_app(context: ApiContext) -> ASGIApp:
    """The ASGI application. The context's engine client must be running while it serves."""
    app = FastAPI(
        title="Embedway",
        version=__version__,
        description="OpenAI-compatible embeddings. Every error has OpenAI's shape.",
        responses={status: {"model": ErrorResponse} for status in ERROR_STATUSES},
        redirect_slashes=False,
    )
    app.state.context = context
    install_error_handlers(app)
    for room in (embeddings, model_list, tokenize_routes, health):
        app.include_router(room.router)
    return _with_layers(app, context)


def _with_layers(app: FastAPI, context: ApiContext) -> ASGIApp:
    """Innermost first. They lie around the framework, so that `HotRoutes` passes all of it by."""
    settings = context.settings
    routes = [route for route in embeddings.router.routes if isinstance(route, APIRoute)]
    layered: ASGIApp = HotRoutes(app, routes=routes)
    layered = BodyLimit(layered, max_bytes=settings.max_body_mb * 2**20)
    if settings.api_key:
        layered = BearerAuth(layered, keys=[key.get_secret_value() for key in settings.api_key])
    if settings.cors_allow_origin:
        layered = CORSMiddleware(
            layered,
            allow_origins=settings.cors_allow_origin,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],  # clients send headers of their own
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    return RequestContext(layered, metrics=context.metrics)
