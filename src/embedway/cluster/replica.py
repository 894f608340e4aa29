"""A model's deployment: each replica is a whole server beside its actor, on whatever node Ray gives it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import serve

from embedway.api_keys import read_key_file
from embedway.cluster.autoscaling import QUEUED_TOKENS
from embedway.cluster.child_server import ChildServer
from embedway.errors import ReplicaFailed

DRAIN_SECONDS = 30.0


class ModelReplica:
    """Ray Serve's class of a model. Its constructor ends once the model answers."""

    async def __init__(self, settings: Mapping[str, Any]) -> None:  # Serve awaits it
        """`settings` are those of `embedway serve`, of one model."""
        key = own_key(settings)
        self._own_headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._child = ChildServer(settings)
        try:
            await self._child.ready()
        except BaseException:
            await asyncio.to_thread(self._child.stop, 0.0)
            raise

    async def answer(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, affinity: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers, body. `affinity` is for the router alone. Raises ConnectionError."""
        del affinity
        return await self._child.send(method, path, headers, body)

    async def answer_as(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[str, int, dict[str, str], bytes]:
        """As `answer`, with the replica's name before it: for what is asked of every replica."""
        name = serve.get_replica_context().replica_id.unique_id
        return name, *await self._child.send(method, path, headers, body)

    async def check_health(self) -> None:
        """Serve replaces a replica where this raises. The server replaces engines that die or hang by itself before."""
        if not self._child.is_alive:
            raise ReplicaFailed(problem="its server has ended")
        status, _, body = await self._child.send("GET", "/livez", {}, b"")
        if status != 200:
            raise ReplicaFailed(problem=f"its server says {status}: {body[:200]!r}")

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Serve asks for this from time to time, for `autoscaling.by_queued_tokens`."""
        return {QUEUED_TOKENS: float(await self._held_tokens())}

    async def _held_tokens(self) -> int:
        status, _, body = await self._child.send("GET", "/server_info", self._own_headers, b"")
        if status != 200:
            return 0
        admission = json.loads(body)["admission"]
        return sum(admission[name]["tokens"] for name in ("interactive", "bulk"))

    def __del__(self) -> None:
        """Serve calls it once no request is under way here any more."""
        with contextlib.suppress(AttributeError, ProcessLookupError):
            self._child.stop(DRAIN_SECONDS)


def own_key(settings: Mapping[str, Any]) -> str | None:
    """One that opens the replica's own server. Raises InvalidSetting where the key file cannot be read."""
    keys = list(settings.get("api_key") or ())
    if not keys and settings.get("api_key_file"):
        keys = read_key_file(Path(settings["api_key_file"]))
    return keys[0] if keys else None
