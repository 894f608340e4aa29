from __future__ import annotations

import subprocess
import sys
from types import FrameType

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.conftest import Serve
from embedway.api.app import create_core
from embedway.api.warm_up import warm_up


async def test_the_first_request_has_no_more_to_do_than_the_second(serve: Serve) -> None:
    async with serve() as context:
        core, statuses = create_core(context), list[int]()
        counted = context.metrics.totals()

        async def recording(scope: Scope, receive: Receive, send: Send) -> None:
            async def note(message: Message) -> None:
                statuses.extend([message["status"]] if "status" in message else [])
                await send(message)

            await core(scope, receive, note)

        calls = [await num_calls(recording) for _ in range(3)]
        assert statuses == [200] * 3
        assert context.metrics.totals() == counted
    assert calls[0] > 20 * max(calls[1:])


async def num_calls(core: ASGIApp) -> int:
    """Of Python's functions, in one warm-up."""
    count = 0

    def on_event(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(on_event)
    try:
        await warm_up(core)
    finally:
        sys.setprofile(None)
    return count


def test_what_bounds_a_request_s_time_is_loaded() -> None:
    code = """
import asyncio, sys
from embedway.api.warm_up import warm_up

async def core(scope, receive, send): pass

name = "anyio._backends._asyncio"
assert name not in sys.modules
asyncio.run(warm_up(core))
assert name in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
