"""MediaReader: what a request's images and videos made is freed as they end, however they end."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator

import uvloop

from embedway.errors import RequestError
from embedway.media.decoder import MediaDecoder
from embedway.media.memory import MediaMemory
from embedway.media.reader import FREED_AT_ONCE, IN_FLIGHT, MediaReader
from embedway.media.sources import INLINE_CHARACTERS, MediaSources
from embedway.visual import MediaRef
from encoded_media import LIMITS, png, vision_spec
from garbage import frozen_heap, garbage
from loopback_server import always, response, serving
from media_fetching import media_rules, to_loopback

COUNT = 8


@contextlib.asynccontextmanager
async def reader() -> AsyncGenerator[MediaReader]:
    """That may ask `media.test`."""
    made = MediaReader(
        MediaSources(media_rules("media.test"), resolve=to_loopback),
        MediaDecoder(vision_spec(), LIMITS, num_workers=1),
        MediaMemory(1 << 30),
        MediaMemory(1 << 30),
        vision_spec(),
        max_frames=8,
        timeout_seconds=60,
    )
    try:
        yield made
    finally:
        await made.aclose()


async def read(made: MediaReader, given: str) -> None:
    """Two items, one of which is an image."""
    whole = base64.b64encode(png()).decode()
    refs = [MediaRef("image", given, param="input[0].image"), MediaRef("image", whole, param="input[1].image")]
    with contextlib.suppress(RequestError):
        async with made.read({i: (ref,) for i, ref in enumerate(refs)}):
            pass


async def give_up(made: MediaReader, given: str) -> None:
    """Once it has begun."""
    reading = asyncio.ensure_future(read(made, given))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)


async def what_is_left() -> dict[str, Counter[str]]:
    """What COUNT requests of each kind leave for the garbage collector."""
    left: dict[str, Counter[str]] = {}
    async with serving(always(response(b"no", status="404 Not Found"))) as server, reader() as made:
        nowhere = f"http://media.test:{server.port}/nothing"
        uses = {
            "an image": (read, base64.b64encode(png(seed=1)).decode()),
            "no image": (read, base64.b64encode(b"no image").decode()),
            "no base64": (read, "?" * INLINE_CHARACTERS),
            "nowhere": (read, nowhere),
            "given up": (give_up, base64.b64encode(png(seed=2)).decode()),
            "given up, nowhere": (give_up, nowhere),
        }
        for use, given in uses.values():
            await use(made, given)  # what is made once
        with frozen_heap():
            for name, (use, given) in uses.items():
                with garbage() as left[name]:
                    for _ in range(COUNT):
                        await use(made, given)
    return left


async def test_a_request_of_many_files_leaves_the_loop_to_others_and_is_let_go_of_bit_by_bit() -> None:
    given = base64.b64encode(png()).decode()
    media = {i: (MediaRef("image", given, param=f"input[{i}].image"),) for i in range(300)}
    num_turns = 0
    most_tasks = 0

    async def count_turns() -> None:
        nonlocal num_turns, most_tasks
        while True:
            num_turns += 1
            most_tasks = max(most_tasks, len(asyncio.all_tasks()))
            await asyncio.sleep(0)

    async with reader() as made, made.read({0: (MediaRef("image", given, param="input"),)}):  # all others are known
        counting = asyncio.ensure_future(count_turns())
        tasks_before = len(asyncio.all_tasks())
        async with made.read(media) as visuals:
            assert num_turns >= len(media) / IN_FLIGHT
            assert most_tasks < tasks_before + 2 * IN_FLIGHT  # some of which are the decoder's
            assert list(visuals) == list(media)
            assert all(len(own) == 1 for own in visuals.values())
            assert not any(ref.given for own in media.values() for ref in own)
            num_turns = 0
        assert not visuals
        assert num_turns >= len(media) / FREED_AT_ONCE
        counting.cancel()


def test_nothing_of_a_request_waits_for_the_garbage_collector() -> None:
    """On the event loop that API processes have: those of asyncio's own transports are circles themselves."""
    left = uvloop.run(what_is_left())
    assert len(left) == 6
    assert not {name: found.most_common(10) for name, found in left.items() if found.total() >= COUNT}
