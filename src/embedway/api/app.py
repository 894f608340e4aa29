"""The HTTP application: routes, and the layers around them."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.middleware import Middleware
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

ERROR_STATUSES = (400, 401, 404, 405, 413, 415, 500, 503)


def create_app(context: ApiContext) -> FastAPI:
    """The ASGI application. The context's engine client must be running while it serves."""
    app = FastAPI(
        title="Embedway",
        version=__version__,
        description="OpenAI-compatible embeddings. Every error has OpenAI's shape.",
        middleware=_layers(context),
        responses={status: {"model": ErrorResponse} for status in ERROR_STATUSES},
        redirect_slashes=False,
    )
    app.state.context = context
    install_error_handlers(app)
    for room in (embeddings, model_list, tokenize_routes, health):
        app.include_router(room.router)
    return app


def _layers(context: ApiContext) -> list[Middleware]:
    """Outermost first."""
    settings = context.settings
    layers = [Middleware(RequestContext, metrics=context.metrics)]
    if settings.cors_allow_origin:
        layers.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.cors_allow_origin,
                allow_methods=["GET", "POST"],
                allow_headers=["*"],  # clients send headers of their own
                expose_headers=["X-Request-Id", "Retry-After"],
            )
        )
    if settings.api_key:
        layers.append(Middleware(BearerAuth, keys=[key.get_secret_value() for key in settings.api_key]))
    layers.append(Middleware(BodyLimit, max_bytes=settings.max_body_mb * 2**20))
    hot = [route for route in embeddings.router.routes if isinstance(route, APIRoute)]
    layers.append(Middleware(HotRoutes, routes=hot))
    return layers
