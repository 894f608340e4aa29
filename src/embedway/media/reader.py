"""What requests name as images and videos → Visuals: found, decoded, and held to the memory that there is."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, TypeVar

import anyio

from embedway.errors import EmbedwayError, MediaFetchFailed, MediaTooLarge
from embedway.media.decoder import MediaDecoder
from embedway.media.memory import ENCODED_BYTES, Lease, MediaMemory, estimate, is_named
from embedway.media.sources import MediaSources
from embedway.model_spec import VisionSpec
from embedway.visual import MediaKind, MediaRef, Visual

MediaStep: TypeAlias = Literal["open", "decode"]
"""A file is fetched, read or taken out of the request, and then decoded"""
OnStep: TypeAlias = Callable[[MediaStep, MediaKind, float, "str | None"], object]
"""Told of each step that has ended: its seconds, and the code of the error that it ended in"""

IN_FLIGHT = 16
"""Files of one request that are fetched or decoded at once"""
REQUEST_TIMEOUT = 10
"""How many times --media-timeout all files of a request may take together, waiting for their turns included"""

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class MediaReader:
    """Made once in an API process. Belongs to its event loop."""

    sources: MediaSources
    decoder: MediaDecoder
    memory: MediaMemory
    """For requests that bring their files with them"""
    memory_of_named: MediaMemory
    """For those whose files are elsewhere: however slow that is, the others go on"""
    vision: VisionSpec
    max_frames: int
    """Of a video"""
    timeout_seconds: float
    """For all files of a request"""
    on_step: OnStep = field(default=lambda *_: None)

    @contextlib.asynccontextmanager
    async def read(self, media: Mapping[int, tuple[MediaRef, ...]]) -> AsyncGenerator[dict[int, tuple[Visual, ...]]]:
        """A request's Visuals, by item and in its order; what they take is free again at the end of the block.

        Waits for memory before anything is fetched or decoded. Raises MediaNotAllowed, MediaFetchFailed,
        MediaUnreadable, MediaTooLarge or InvalidValue for the first item at fault; then nothing of the request goes on.
        """
        refs = [ref for own in media.values() for ref in own]
        memory = self.memory_of_named if any(map(is_named, refs)) else self.memory
        likely = estimate(refs, self.vision, max_frames=self.max_frames, in_flight=IN_FLIGHT)
        async with memory.room(likely) as lease:
            visuals = iter(await self._read_all(refs, lease))
            found = {i: tuple(next(visuals) for _ in own) for i, own in media.items()}
            self._settle(lease, refs, found)
            yield found

    async def aclose(self) -> None:
        await self.decoder.aclose()
        await self.sources.aclose()

    async def _read_all(self, refs: Sequence[MediaRef], lease: Lease) -> list[Visual]:
        turns = asyncio.Semaphore(IN_FLIGHT)
        reading = all_or_none([self._read(ref, lease, turns) for ref in refs])
        try:
            # asyncio.wait_for, before Python 3.12, leaves a cycle of references with every error
            with anyio.fail_after(self.timeout_seconds):
                return await reading
        except TimeoutError as error:
            problem = f"the request's images and videos together took longer than {self.timeout_seconds:g} seconds"
            raise MediaFetchFailed(param=refs[0].param, problem=problem) from error

    async def _read(self, ref: MediaRef, lease: Lease, turns: asyncio.Semaphore) -> Visual:
        async with turns:
            data = await self._timed("open", ref, self.sources.open(ref.given, kind=ref.kind, param=ref.param))
            with lease.also(max(0, len(data) - ENCODED_BYTES) if is_named(ref) else 0):
                return await self._timed("decode", ref, self.decoder.decode(data, kind=ref.kind, param=ref.param))

    async def _timed(self, step: MediaStep, ref: MediaRef, work: Awaitable[ResultT]) -> ResultT:
        """What is given up, for another file of the request is at fault, says nothing."""
        began = time.perf_counter()
        try:
            result = await work
        except EmbedwayError as error:
            self.on_step(step, ref.kind, time.perf_counter() - began, error.code)
            raise
        self.on_step(step, ref.kind, time.perf_counter() - began, None)
        return result

    def _settle(self, lease: Lease, refs: Sequence[MediaRef], found: Mapping[int, tuple[Visual, ...]]) -> None:
        num_bytes = sum(visual.num_bytes for own in found.values() for visual in own)
        if num_bytes > lease.memory.limit:
            limit = f"{lease.memory.limit // 2**20} MiB of a request"
            problem = f"and the request's other images and videos take {num_bytes // 2**20} MiB once they are decoded"
            raise MediaTooLarge(param=refs[0].param, problem=problem, limit=limit, flag="--media-memory-mb")
        lease.settle(num_bytes)


async def all_or_none(awaitables: Sequence[Awaitable[ResultT]]) -> list[ResultT]:
    """All results in their order. The first that raises, or a cancellation from outside, ends the others, too."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    finally:
        tasks.clear()  # they have their errors, which have this frame: none would be freed
