"""What requests name as images and videos → Visuals: found, decoded, and held to the memory that there is."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
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
FREED_AT_ONCE = 4
"""Images and videos, or items with them, that are freed in one turn of the event loop"""
PLACED_AT_ONCE = 256
"""Items with images and videos that are put together in one turn: a fifth of a millisecond"""
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

        The mapping is empty then, and what was given is gone as soon as it is read. Waits for memory before anything
        is fetched or decoded. Raises MediaNotAllowed, MediaFetchFailed, MediaUnreadable, MediaTooLarge or InvalidValue
        for the first item at fault; then nothing of the request goes on.
        """
        refs = [ref for own in media.values() for ref in own]
        memory = self.memory_of_named if any(map(is_named, refs)) else self.memory
        likely = estimate(refs, self.vision, max_frames=self.max_frames, in_flight=IN_FLIGHT)
        async with memory.room(likely) as lease:
            read: dict[int, Visual] = {}
            found: dict[int, tuple[Visual, ...]] = {}
            try:
                await self._read_all(refs, lease, read)
                self._settle(lease, refs, read)
                places = iter(range(len(refs)))
                for number, (i, own) in enumerate(media.items(), 1):
                    found[i] = tuple([read.pop(place) for place in islice(places, len(own))])
                    if number % PLACED_AT_ONCE == 0:
                        await asyncio.sleep(0)
                yield found
            finally:
                await let_go_of(read)
                await let_go_of(found)

    async def aclose(self) -> None:
        await self.decoder.aclose()
        await self.sources.aclose()

    async def _read_all(self, refs: Sequence[MediaRef], lease: Lease, read: dict[int, Visual]) -> None:
        """Into `read`, by their places in `refs`."""
        left = iter(enumerate(refs))

        async def read_some() -> None:
            for i, ref in left:
                read[i] = await self._read(ref, lease)
                await asyncio.sleep(0)  # a file that is at hand waits for nothing, and there may be thousands

        # not a task a file: thousands would all begin, or be cancelled, in one turn of the event loop
        reading = all_or_none([read_some() for _ in range(min(IN_FLIGHT, len(refs)))])
        try:
            # asyncio.wait_for, before Python 3.12, leaves a cycle of references with every error
            with anyio.fail_after(self.timeout_seconds):
                await reading
        except TimeoutError as error:
            problem = f"the request's images and videos together took longer than {self.timeout_seconds:g} seconds"
            raise MediaFetchFailed(param=refs[0].param, problem=problem) from error

    async def _read(self, ref: MediaRef, lease: Lease) -> Visual:
        is_elsewhere = is_named(ref)
        given, ref.given = ref.given, ""  # freed once it is read: all of them at the end would hold up the event loop
        opening = self.sources.open(given, kind=ref.kind, param=ref.param)
        del given
        data = await self._timed("open", ref, opening)
        with lease.also(max(0, len(data) - ENCODED_BYTES) if is_elsewhere else 0):
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

    def _settle(self, lease: Lease, refs: Sequence[MediaRef], read: Mapping[int, Visual]) -> None:
        num_bytes = sum([visual.num_bytes for visual in read.values()])
        if num_bytes > lease.memory.limit:
            limit = f"{lease.memory.limit // 2**20} MiB of a request"
            problem = f"and the request's other images and videos take {num_bytes // 2**20} MiB once they are decoded"
            raise MediaTooLarge(param=refs[0].param, problem=problem, limit=limit, flag="--media-memory-mb")
        lease.settle(num_bytes)


async def let_go_of(found: dict[int, Visual] | dict[int, tuple[Visual, ...]]) -> None:
    """Bit by bit, the newest first: to free hundreds of megabytes at once holds up the event loop."""
    while found:
        for _ in range(min(FREED_AT_ONCE, len(found))):
            found.popitem()
        await asyncio.sleep(0)


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
