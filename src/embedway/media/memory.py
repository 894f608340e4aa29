"""How much memory decoded images and videos may take: a request waits at the door until there is room for its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncGenerator, Generator, Sequence
from dataclasses import dataclass

from embedway.model_spec import PixelSpec, VisionSpec
from embedway.visual import MediaRef

ENCODED_BYTES = 4 * 2**20
"""What an image or a video that has to be fetched is taken to have"""
LONGEST_PLACE = 4096
"""Characters of a URL or a path; what is longer holds the bytes itself"""
LONGEST_ASPECT = 4
"""Of a frame whose shortest side alone is given"""


class MediaMemory:
    """Bytes that the requests now being read and embedded may hold together. Belongs to one event loop.

    First come, first served, so that no request waits for ever behind smaller ones.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @contextlib.asynccontextmanager
    async def room(self, estimate: int) -> AsyncGenerator[Lease]:
        """Wait for room for so many bytes, or all there is where they are more; give it back at the end."""
        lease = Lease(self, min(estimate, self.limit))
        await self._take(lease.num_bytes)
        try:
            yield lease
        finally:
            self.change(-lease.num_bytes)

    async def _take(self, num_bytes: int) -> None:
        if not self._waiting and self.held + num_bytes <= self.limit:
            self.held += num_bytes
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((num_bytes, turn))
        try:
            await turn
        except asyncio.CancelledError:
            # its turn may have come just as the request went
            self.change(0 if turn.cancelled() else -num_bytes)
            raise

    def change(self, num_bytes: int) -> None:
        """So many bytes more are held, or fewer."""
        self.held += num_bytes
        self._admit()

    def _admit(self) -> None:
        while self._waiting:
            num_bytes, turn = self._waiting[0]
            if not turn.cancelled():
                if self.held + num_bytes > self.limit:
                    return
                self.held += num_bytes
                turn.set_result(None)
            self._waiting.popleft()


@dataclass(slots=True)
class Lease:
    """A request's part of the memory."""

    memory: MediaMemory
    num_bytes: int

    @contextlib.contextmanager
    def also(self, num_bytes: int) -> Generator[None, None, None]:
        """Hold so many bytes more for a while: others wait, this request does not."""
        self.settle(self.num_bytes + num_bytes)
        try:
            yield
        finally:
            self.settle(self.num_bytes - num_bytes)

    def settle(self, num_bytes: int) -> None:
        """What the request really holds, now that it is known; others wait if it is more than was thought."""
        difference = num_bytes - self.num_bytes
        self.num_bytes = num_bytes
        self.memory.change(difference)


def estimate(refs: Sequence[MediaRef], vision: VisionSpec, *, max_frames: int, in_flight: int) -> int:
    """Bytes that these are likely to take, before anybody has looked at them; `in_flight` files are read at once."""
    num_refs = Counter([ref.kind for ref in refs])
    num_frames = num_refs["video"] * (1 if vision.video.is_budget_of_all else max_frames)
    pixels = num_refs["image"] * largest_frame(vision.image) + num_frames * largest_frame(vision.video.pixels)
    lengths = [len(ref.given) for ref in refs]
    inline = [length for length in lengths if length > LONGEST_PLACE]
    return 3 * pixels + sum(inline) * 3 // 4 + ENCODED_BYTES * min(len(refs) - len(inline), in_flight)


def is_named(ref: MediaRef) -> bool:
    """Whether the bytes are elsewhere: on the network or in a file."""
    return len(ref.given) <= LONGEST_PLACE


def largest_frame(pixels: PixelSpec) -> int:
    """Pixels of a frame as the model reads it, about as many as there can be."""
    if pixels.crop is not None:
        return pixels.crop[0] * pixels.crop[1]
    match pixels.resize:
        case "exact":
            return pixels.height * pixels.width
        case "shortest_edge":
            return LONGEST_ASPECT * pixels.height**2
        case "smart":
            return pixels.max_pixels
        case "patch_budget":
            return pixels.max_patches * pixels.patch_size**2
        case "none":
            return 0  # nobody knows
