"""Bearer keys: every route is closed but what an orchestrator probes and the playground's files, which hold no data;
some need the admin's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedway.api.error_response import error_response
from embedway.api.headers import header
from embedway.api.playground_route import page_files
from embedway.api_keys import NO_KEY
from embedway.errors import AdminOnly, InvalidApiKey

if TYPE_CHECKING:
    from fastapi import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from embedway.api_keys import ApiKeys

KEYLESS_PATHS = frozenset({"/health", "/livez", "/readyz", *page_files()})
USER_NEED = "This server needs an API key"
ADMIN_NEED = "This route needs the admin's API key"


class BearerAuth:
    """ASGI middleware. Whose key a request has is told by `key_number_of`."""

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in KEYLESS_PATHS:
            try:
                scope["state"]["key_number"] = checked_key(scope, self._keys)
            except InvalidApiKey as error:
                await error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def checked_key(scope: Scope, keys: ApiKeys) -> int:
    """The number of a request's API key, NO_KEY for the admin's. Raises InvalidApiKey."""
    number = keys.number_of(_bearer_token(scope, USER_NEED))
    if number is None:
        raise InvalidApiKey(problem="The API key is wrong")
    return number


def key_number_of(request: Request) -> int:
    """The number of the API key that a request has, NO_KEY for none and for the admin's."""
    return request.scope["state"].get("key_number", NO_KEY)


def require_admin(scope: Scope, keys: ApiKeys) -> None:
    """For a route that changes the server. Raises AdminOnly where no admin key is set, InvalidApiKey without it."""
    if keys.admin is None:
        raise AdminOnly(path=scope["path"], problem="nobody may until it is started with --admin-api-key")
    if not keys.is_admin(_bearer_token(scope, ADMIN_NEED)):
        raise InvalidApiKey(problem="The API key is wrong")


def _bearer_token(scope: Scope, need: str) -> bytes:
    """Raises InvalidApiKey where there is none."""
    given = header(scope, b"authorization")
    if given is None:
        raise InvalidApiKey(problem=f"{need}, and the request has none")
    scheme, _, key = given.partition(" ")
    if scheme.lower() != "bearer":
        raise InvalidApiKey(problem=f"{need} as a bearer token")
    return key.encode("latin-1").strip()
