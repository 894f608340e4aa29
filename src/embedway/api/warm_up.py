"""What libraries put off until the first request, done at the start.

FastAPI makes its routes ready, and anyio loads its event loop's half: a tenth of a second in which the event loop of a
process that has just taken over from another would answer nobody.
"""

from __future__ import annotations

import anyio
from starlette.types import ASGIApp, Message, Scope


async def warm_up(core: ASGIApp) -> None:
    """Ask the application, without its layers: nothing is counted."""
    anyio.current_time()
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/livez",
        "query_string": b"",
        "headers": [],
    }
    await core(scope, _nothing, _nobody)


async def _nothing() -> Message:
    return {"type": "http.request"}


async def _nobody(message: Message) -> None:
    del message
