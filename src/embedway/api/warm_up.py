"""What libraries put off until the first request, done at the start.

FastAPI makes its routes ready, and anyio loads its event loop's half: a tenth of a second in which the event loop of a
process that has just taken over from another would answer nobody.
"""

from __future__ import annotations

import anyio
from starlette.types import ASGIApp, Message

from embedway.api.core_request import core_request


async def warm_up(core: ASGIApp) -> None:
    """Ask the application, without its layers: nothing is counted."""
    anyio.current_time()
    await core(core_request("GET", "/livez"), _nothing, _nobody)


async def _nothing() -> Message:
    return {"type": "http.request"}


async def _nobody(message: Message) -> None:
    del message
