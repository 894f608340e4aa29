"""An API process: uvicorn on the supervisor's listening socket."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, cast

import uvicorn

from embedway.api.app import create_core, with_layers
from embedway.api.batch_runner import batches_running
from embedway.api.context import ApiContext
from embedway.api.context_setup import api_context
from embedway.api.drain import Drain
from embedway.api.early_refusal import EarlyRefusal
from embedway.api.http_limits import HttpLimits
from embedway.api.http_protocol import HttpProtocol
from embedway.api.model_host import ModelHost, opened
from embedway.api.quick_request import QuickRequests
from embedway.api.supervisor_orders import SupervisorOrders
from embedway.api.tls_server import TlsServer
from embedway.api.waits import Waits
from embedway.api.warm_up import warm_up
from embedway.child_process import BEAT_SECONDS, ParentLink
from embedway.config import Settings
from embedway.engine.wire import ApiConfig
from embedway.errors import StartupError
from embedway.observability.logs import configure_logging
from embedway.observability.metrics import Metrics
from embedway.observability.tracing import tracer_of
from embedway.open_files import connections_that_fit
from embedway.supervisor_words import ModelsAdopted, ModelsChanged, OrderEnd, read_down, word_of
from embedway.tls import tls_context

logger = logging.getLogger("embedway.api")

OBJECTS_PER_COLLECTION = 10_000
"""Of some hundred requests; the default is 700, and then 2 000."""
M_MMAP_THRESHOLD, LARGE_BLOCK = -3, 1 << 20
PATIENCE_SECONDS = 0.5
SWITCH_SECONDS = 0.0005
"""The longest that the event loop waits for a thread of Python's; the default is ten times as long"""


class Server(uvicorn.Server):
    """uvicorn's server, which refuses new requests politely for a while before it closes the port."""

    def __init__(self, config: uvicorn.Config, drain: Drain, delay: float, limits: HttpLimits) -> None:
        """`delay`: the seconds from the signal to end until the port is closed."""
        super().__init__(config)
        self._drain = drain
        self._delay = delay
        self._limits = limits

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self.config.ssl is None:
            await super().startup(sockets)
            return
        make_protocol = functools.partial(
            self.config.http_protocol_class, config=self.config, server_state=self.server_state, app_state={}
        )
        servers = [
            TlsServer(
                listening,
                self.config.ssl,
                cast("Callable[[], asyncio.Protocol]", make_protocol),
                connections=self.server_state.connections,
                max_connections=self._limits.max_connections,
                handshake_timeout=self._limits.receive_timeout,
            )
            for listening in sockets or ()
        ]
        for server in servers:
            server.start()
        self.servers = cast("list[asyncio.base_events.Server]", servers)
        self.started = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._drain.has_begun = True
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await asyncio.sleep(self._delay)
        await super().shutdown(sockets)


async def serve(config: ApiConfig, settings: Settings, link: ParentLink) -> None:
    """Serve until SIGTERM; then finish what was accepted, for at most the drain timeout."""
    metrics, tracer = Metrics(Path(config.metrics_folder)), tracer_of(settings.otlp_endpoint)
    waits = Waits(metrics.ended)
    orders = SupervisorOrders(link.tell, lambda: link.is_announced)
    async with ModelHost(Path(config.models_file), lambda model: opened(model, metrics, waits)) as host:
        hears = SupervisorWords(link, host, orders, patience=settings.drain_timeout)
        with api_context(
            settings, config.keys, host.models, metrics=metrics, waits=waits, tracer=tracer, orders=orders
        ) as context:
            await serve_http(context, host, link, config.socket_fd)
        await hears.stop()
        if tracer is not None:
            await asyncio.to_thread(tracer.close)


async def serve_http(context: ApiContext, host: ModelHost, link: ParentLink, socket_fd: int) -> None:
    """The same, once there is all that it takes; `socket_fd` is the listening socket."""
    settings, core = context.settings, create_core(context)
    delay = min(settings.drain_delay, settings.drain_timeout)
    limits = limits_of(settings)
    protocol = functools.partial(
        HttpProtocol, limits=limits, early_refusal=EarlyRefusal(context), quick_requests=QuickRequests(context)
    )
    server_config = uvicorn.Config(
        with_layers(core, context),
        http=cast("type[asyncio.Protocol]", protocol),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here asks for the client's address or scheme
        timeout_keep_alive=cast("int", settings.keep_alive_timeout),
        # then it cancels what runs still, which `RequestContext` answers; seconds may have fractions, here as there
        timeout_graceful_shutdown=cast("int", settings.drain_timeout - delay),
    )
    # A process that takes over from one that died should not refuse what it could serve a moment later.
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(host.first_ready(), PATIENCE_SECONDS)
    told = [
        asyncio.create_task(beat(link, context.metrics)),
        asyncio.create_task(announce(host, link)),
    ]
    await warm_up(core)
    leave_alone_what_is_there()
    server_config.load()
    server_config.ssl = tls_context(settings)
    server = Server(server_config, context.drain, delay, limits)
    async with batches_running(context, core):
        await server.serve(sockets=[socket.socket(fileno=socket_fd)])
    for task in told:
        task.cancel()


def limits_of(settings: Settings) -> HttpLimits:
    max_connections = connections_that_fit(settings.max_connections)
    if max_connections < settings.max_connections:
        logger.warning("the system's limit of open files (ulimit -n) allows for %d connections only", max_connections)
    return HttpLimits(
        max_connections=max_connections,
        max_body_bytes=settings.max_body_mb * 2**20,
        receive_timeout=settings.receive_timeout,
        send_timeout=settings.send_timeout,
    )


async def announce(host: ModelHost, link: ParentLink) -> None:
    """Tell the supervisor once embeddings are served: an engine has answered this process."""
    await host.first_ready()
    link.announce_ready()


async def beat(link: ParentLink, metrics: Metrics) -> None:
    """Tell the supervisor that the event loop turns, and the other processes how things are, until cancelled."""
    while True:
        link.beat()
        metrics.refresh()
        await asyncio.sleep(BEAT_SECONDS)


class SupervisorWords:
    """What the supervisor says: the ends of orders, and that there are other models. Belongs to one event loop."""

    def __init__(self, link: ParentLink, host: ModelHost, orders: SupervisorOrders, *, patience: float) -> None:
        """`patience`: the seconds that requests of a model have that is unloaded."""
        self._link = link
        self._host = host
        self._orders = orders
        self._patience = patience
        self._adopting: set[asyncio.Task[None]] = set()
        loop = asyncio.get_running_loop()

        def on_word(word: str) -> None:
            with contextlib.suppress(RuntimeError):  # raised where the loop is closed already
                loop.call_soon_threadsafe(self._hear, word)

        link.on_word(on_word)

    async def stop(self) -> None:
        """No model is opened any more."""
        for task in self._adopting:
            task.cancel()
        await asyncio.gather(*self._adopting, return_exceptions=True)

    def _hear(self, word: str) -> None:
        match read_down(word):
            case OrderEnd() as end:
                self._orders.on_end(end)
            case ModelsChanged(version):
                task = asyncio.create_task(self._adopt(version))
                self._adopting.add(task)
                task.add_done_callback(self._adopting.discard)

    async def _adopt(self, version: int) -> None:
        problem = None
        try:
            await self._host.adopt(self._patience)
        except StartupError as error:
            problem = error.message
        except Exception as error:
            logger.exception("a model could not be taken over")
            problem = f"an API process failed on it ({type(error).__name__})"
        self._link.tell(word_of(ModelsAdopted(version, problem)))


def return_large_blocks() -> None:
    """Have glibc give large blocks (bodies, images) back when they are freed, not keep them as its heap.

    Left alone, it raises the size from which it does so with each that is freed: 3 GB stayed after 200 large images.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)


def leave_alone_what_is_there() -> None:
    """Let the garbage collector look at requests only, and seldom: what the start made stays to the end."""
    gc.freeze()
    gc.set_threshold(OBJECTS_PER_COLLECTION)


def main() -> None:
    # uvicorn has its own handler while it serves, and raises the signal once more at its end: that must not kill.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return_large_blocks()
    sys.setswitchinterval(SWITCH_SECONDS)
    link = ParentLink()
    config = link.read_config(ApiConfig)
    settings = Settings(**config.settings)
    configure_logging(settings.log_level, process="api", log_format=settings.log_format)
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
