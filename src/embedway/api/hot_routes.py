"""A shortcut to the routes that embed: past the framework's router, dependencies and exit stacks to their endpoints.

These cost more than all else that is done for a short query. The routes are the framework's all the same: it describes
them in /docs and answers what is not POST. Without this layer every answer would be the same, only later.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, TypeVar

from starlette.requests import Request

from embedway.api.error_response import embedway_error
from embedway.errors import EmbedwayError

if TYPE_CHECKING:
    from fastapi import FastAPI
    from fastapi.routing import APIRoute
    from starlette.types import Receive, Scope, Send


HeldT = TypeVar("HeldT")


class HotRoutes:
    """ASGI middleware around `app`. The routes' endpoints take a Request and return a Response."""

    def __init__(self, app: FastAPI, *, routes: Iterable[APIRoute]) -> None:
        self._app = app
        self._routes = {route.path: route for route in routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["app"], scope["route"] = self._app, route
        request = Request(scope, receive)
        with contextlib.ExitStack() as held:
            scope["state"]["held"] = held
            try:
                response = await route.endpoint(request)
            except EmbedwayError as error:
                response = await embedway_error(request, error)
            await response(scope, receive, send)


def until_sent(request: Request, held: AbstractContextManager[HeldT]) -> HeldT:
    """Enter a context, which is left once the answer has been sent: one that nobody reads is still to be counted."""
    return request.scope["state"]["held"].enter_context(held)
