"""MediaDecoder: the bytes of an image or a video → a Visual, decoded elsewhere, once for equal bytes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from embedway.errors import MediaBusy, MediaTooLarge
from embedway.media.limits import MediaLimits
from embedway.media.refusal import Refusal
from embedway.media.visual_cache import VisualCache, VisualKey, key_of
from embedway.media.worker_messages import Setup
from embedway.media.worker_pool import MediaQueueFull, WorkerPool
from embedway.model_spec import VisionSpec
from embedway.visual import MediaKind, Visual

LARGE_BYTES = 1 << 20
"""From this size a file's hash, 1 ms, is computed off the event loop"""


@dataclass(slots=True)
class _Shared:
    """A decode under way and how many wait for it."""

    answer: asyncio.Future[Visual | Refusal]
    num_waiting: int = 0


class MediaDecoder:
    """Made once in an API process, used from its event loop. Its workers are started by the first items."""

    def __init__(self, vision: VisionSpec, limits: MediaLimits, *, num_workers: int) -> None:
        self.cache = VisualCache(limits.cache_bytes)
        self._limits = limits
        self._pool = WorkerPool(Setup(vision, limits), num_workers)
        self._in_flight: dict[VisualKey, _Shared] = {}

    async def aclose(self) -> None:
        """Kill the workers. Whoever still waits gets ShuttingDown."""
        await self._pool.close()

    async def decode(self, data: bytes, *, kind: MediaKind, param: str) -> Visual:
        """Decode a file; the pixels of the Visual are shared and read-only.

        Raises MediaUnreadable, MediaTooLarge, or MediaBusy where too many bytes wait already.
        """
        if len(data) > self._limits.max_data_bytes:
            raise self._too_long(data, param)
        key = await self._key(kind, data)
        visual = self.cache.get(key)
        if visual is not None:
            return visual
        try:
            answer = await self._decoded_once(key, data)
        except MediaQueueFull as full:
            raise MediaBusy(param=param) from full
        if isinstance(answer, Refusal):
            raise answer.as_error(kind, param)
        return answer

    def _too_long(self, data: bytes, param: str) -> MediaTooLarge:
        limit = f"{self._limits.max_data_bytes} bytes"
        return MediaTooLarge(param=param, problem=f"has {len(data)} bytes", limit=limit, flag="--max-media-mb")

    async def _key(self, kind: MediaKind, data: bytes) -> VisualKey:
        if len(data) < LARGE_BYTES:
            return key_of(kind, data)
        return await asyncio.to_thread(key_of, kind, data)

    async def _decoded_once(self, key: VisualKey, data: bytes) -> Visual | Refusal:
        """Wait for the decode of these bytes, begun here or by another; the last to give up cancels it."""
        shared = self._in_flight.get(key)
        if shared is None or shared.answer.cancelled():
            shared = self._begin(key, data)
        shared.num_waiting += 1
        try:
            return await asyncio.shield(shared.answer)
        finally:
            shared.num_waiting -= 1
            if not shared.num_waiting:
                shared.answer.cancel()

    def _begin(self, key: VisualKey, data: bytes) -> _Shared:
        shared = _Shared(self._pool.submit(key[0], data))
        self._in_flight[key] = shared
        shared.answer.add_done_callback(lambda _: self._end(key, shared))
        return shared

    def _end(self, key: VisualKey, shared: _Shared) -> None:
        if self._in_flight.get(key) is shared:
            del self._in_flight[key]
        if shared.answer.cancelled() or shared.answer.exception() is not None:
            return
        answer = shared.answer.result()
        if isinstance(answer, Visual):
            self.cache.put(key, answer)
