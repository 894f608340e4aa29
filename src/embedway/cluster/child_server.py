"""A replica's server, in processes of its own: scheduler, cache, admission and all are those of `embedway serve`."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import aiohttp

from embedway.errors import ReplicaFailed

START_SECONDS = 1200.0
"""A model may have to be downloaded"""
HOP_BY_HOP = frozenset({"connection", "content-length", "date", "keep-alive", "server", "transfer-encoding"})
"""Headers that are of one connection, and those that whoever answers in the end writes anew"""
OWN_HEADERS = frozenset({*HOP_BY_HOP, "accept-encoding", "expect", "host", "upgrade", "via", "x-forwarded-for"})


class ChildServer:
    """Made once it has begun; `ready` waits for it."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        given = {**settings, "host": "127.0.0.1", "port": 0, "playground": False}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "embedway.cluster.child_main"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(given).encode() + b"\n")
        self._process.stdin.flush()
        self._session: aiohttp.ClientSession | None = None
        self._url = ""

    async def ready(self) -> None:
        """Raises ReplicaFailed, with what it says, where it does not come."""
        assert self._process.stdout is not None
        reading = asyncio.to_thread(self._process.stdout.readline)
        try:
            told = json.loads(await asyncio.wait_for(reading, START_SECONDS) or b"{}")
        except (ValueError, asyncio.TimeoutError) as error:
            raise ReplicaFailed(problem="it did not begin") from error
        if "url" not in told:
            raise ReplicaFailed(problem=told.get("error", "it ended"))
        self._url = told["url"]
        connector = aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(
            connector=connector, auto_decompress=False, timeout=aiohttp.ClientTimeout(total=None)
        )

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    async def send(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        """Its answer: status, headers, body. Raises ConnectionError where it is gone."""
        assert self._session is not None, "it is ready"
        own = {name: value for name, value in headers.items() if name.lower() not in OWN_HEADERS}
        try:
            async with self._session.request(method, self._url + path, data=body or None, headers=own) as answer:
                content = await answer.read()
                kept = {name.lower(): value for name, value in answer.headers.items()}
                return answer.status, {k: v for k, v in kept.items() if k not in HOP_BY_HOP}, content
        except aiohttp.ClientError as error:
            raise ConnectionError(str(error)) from error

    def stop(self, patience: float) -> None:
        """Have it finish what it has accepted, for at most so many seconds."""
        self._process.terminate()
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
