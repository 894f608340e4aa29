"""Errors → OpenAI's error body. The only place that does it."""

from __future__ import annotations

import logging

import orjson
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from embedway.errors import EmbedwayError, InternalFault, MethodNotAllowed, RouteNotFound

logger = logging.getLogger("embedway.api")


def error_body(error: EmbedwayError) -> bytes:
    return orjson.dumps(
        {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}
    )


def error_response(error: EmbedwayError) -> Response:
    headers = {}
    if error.retry_after_seconds is not None:
        headers["Retry-After"] = str(error.retry_after_seconds)
    if error.is_final:
        headers["X-Should-Retry"] = "false"  # what OpenAI's clients look at
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(error_body(error), error.status, headers, media_type="application/json")


def request_id_of(request: Request) -> str:
    return request.scope["state"]["request_id"]


def install_error_handlers(app: FastAPI) -> None:
    """Give every error that reaches the framework OpenAI's shape."""
    app.add_exception_handler(EmbedwayError, embedway_error)
    app.add_exception_handler(HTTPException, _routing_error)
    app.add_exception_handler(Exception, _unexpected_error)


async def embedway_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, EmbedwayError)
    log_fault(error, request_id_of(request))
    return error_response(error)


def log_fault(error: EmbedwayError, request_id: str) -> None:
    """Write down an error that is ours."""
    if error.status == 500:
        logger.error("request %s: %s (%s)", request_id, error.message, error.code)


async def _unexpected_error(request: Request, error: Exception) -> Response:
    del error  # is raised again once it is answered, and logged by `RequestContext`
    return error_response(InternalFault(request_id=request_id_of(request)))


async def _routing_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == 404:
        return error_response(RouteNotFound(method=request.method, path=path))
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        response = error_response(MethodNotAllowed(method=request.method, path=path, allowed=allowed))
        response.headers["Allow"] = allowed
        return response
    logger.error("request %s: the router raised an unexpected status %d", request_id_of(request), error.status_code)
    return error_response(InternalFault(request_id=request_id_of(request)))
