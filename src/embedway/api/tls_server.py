"""TLS connections on a listening socket: each handshake is counted as a connection, and has a time in which to end.

asyncio's own server tells nobody of a connection before its handshake is done, and waits a minute for that.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import ssl
from collections.abc import Callable, Collection

logger = logging.getLogger("embedway.api")

PAUSE_SECONDS = 1.0
"""Where the system has nothing left for a connection; others end meanwhile"""


class TlsServer:
    """In the place of asyncio's Server, from `start` to `close`. Belongs to one event loop."""

    def __init__(
        self,
        listening: socket.socket,
        context: ssl.SSLContext,
        make_protocol: Callable[[], asyncio.Protocol],
        *,
        connections: Collection[object],
        max_connections: int,
        handshake_timeout: float,
    ) -> None:
        """`connections` are those whose handshake is done, which their protocols keep up to date.

        `handshake_timeout` is in seconds.
        """
        self._listening = listening
        self._context = context
        self._make_protocol = make_protocol
        self._connections = connections
        self._max_connections = max_connections
        self._handshake_timeout = handshake_timeout
        self._handshakes: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._listening.setblocking(False)
        self._accepting = asyncio.create_task(self._accept())

    def close(self) -> None:
        """Accept nothing any more, and give up the handshakes."""
        if self._accepting is not None:
            self._accepting.cancel()
        for handshake in self._handshakes:
            handshake.cancel()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listening)
            except OSError as error:
                logger.warning("no connection can be accepted for a while: %s", error)
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            if len(self._connections) + len(self._handshakes) >= self._max_connections:
                connection.close()  # to say why would take a handshake
                continue
            handshake = asyncio.create_task(self._shake_hands(connection))
            self._handshakes.add(handshake)
            handshake.add_done_callback(functools.partial(self._on_end, connection))

    def _on_end(self, connection: socket.socket, handshake: asyncio.Task[None]) -> None:
        self._handshakes.discard(handshake)
        if handshake.cancelled():  # perhaps before it had begun
            connection.close()

    async def _shake_hands(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(
                self._make_protocol,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=self._handshake_timeout,
            )
        except OSError as error:
            logger.debug("a TLS handshake failed: %s", error)
