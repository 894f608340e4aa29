"""An API process: uvicorn on the supervisor's listening socket."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from embedway.api.app import create_app
from embedway.api.context import ApiContext
from embedway.api.error_response import error_body
from embedway.api.served_models import ServedModel
from embedway.child_process import ParentLink
from embedway.config import Settings
from embedway.engine.client import EngineClient
from embedway.engine.wire import ApiConfig
from embedway.errors import MalformedHttp, StartupError
from embedway.inputs.sequences import SequenceMaker
from embedway.observability.logs import configure_logging
from embedway.observability.metrics import Metrics

KEEP_ALIVE_SECONDS = 75
"""Longer than the idle limit of common load balancers and clients (60 s): they close first, and no request is lost."""


OBJECTS_PER_COLLECTION = 10_000
"""Of some hundred requests; the default is 700, and then 2 000."""
PATIENCE_SECONDS = 0.5
LAST_WORDS_SECONDS = 2
"""After the drain timeout, to send the errors of what was not finished."""


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with OpenAI's error body for what is no HTTP."""

    def send_400_response(self, msg: str) -> None:
        del msg
        body = error_body(MalformedHttp())
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[400] + head + body)
        self.transport.close()


class Server(uvicorn.Server):
    """uvicorn's server, which answers even what it cannot finish before the end."""

    def __init__(self, config: uvicorn.Config, engine: EngineClient, drain_timeout: float) -> None:
        super().__init__(config)
        self._engine = engine
        self._drain_timeout = drain_timeout

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        limit = asyncio.get_running_loop().call_later(self._drain_timeout, self._engine.abandon_all)
        await super().shutdown(sockets)
        limit.cancel()


async def serve(config: ApiConfig, settings: Settings, link: ParentLink) -> None:
    """Serve until SIGTERM; then finish what was accepted, for at most the drain timeout."""
    sequences = SequenceMaker.load(config.spec, max_request_tokens=settings.max_request_tokens)
    metrics = Metrics(Path(config.metrics_folder))
    async with EngineClient(config.engine_addresses) as engine:
        context = ApiContext(settings, ServedModel.of(config.spec, settings), sequences, engine, metrics)
        server_config = uvicorn.Config(
            create_app(context),
            http=HttpProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nothing here asks for the client's address or scheme
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=math.ceil(settings.drain_timeout) + LAST_WORDS_SECONDS,
        )
        # A process that takes over from one that died should not refuse what it could serve a moment later.
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(engine.first_ready(), PATIENCE_SECONDS)
        announcement = asyncio.create_task(announce(engine, link))
        leave_alone_what_is_there()
        server = Server(server_config, engine, settings.drain_timeout)
        await server.serve(sockets=[socket.socket(fileno=config.socket_fd)])
        announcement.cancel()


async def announce(engine: EngineClient, link: ParentLink) -> None:
    """Tell the supervisor once embeddings are served: the engine has answered this process."""
    await engine.first_ready()
    link.announce_ready()


def leave_alone_what_is_there() -> None:
    """Let the garbage collector look at requests only, and seldom: what the start made stays to the end."""
    gc.freeze()
    gc.set_threshold(OBJECTS_PER_COLLECTION)


def main() -> None:
    # uvicorn has its own handler while it serves, and raises the signal once more at its end: that must not kill.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    link = ParentLink()
    config = link.read_config(ApiConfig)
    settings = Settings(**config.settings)
    configure_logging(settings.log_level, process="api")
    link.on_parent_gone(lambda: os.kill(os.getpid(), signal.SIGTERM))
    try:
        run(serve(config, settings, link))
    except StartupError as error:
        link.fail(error)


def run(main: Any) -> None:
    """asyncio.run on uvloop where there is one."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


if __name__ == "__main__":
    main()
