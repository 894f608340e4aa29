from __future__ import annotations

import asyncio
import functools
from contextlib import AsyncExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedway.media.memory import ENCODED_BYTES, MediaMemory, estimate
from embedway.model_spec import PixelSpec, VideoSpec, VisionSpec
from embedway.visual import MediaRef

plain = functools.partial(PixelSpec, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


async def turns(times: int = 5) -> None:
    """Let all that can go on do so."""
    for _ in range(times):
        await asyncio.sleep(0)


async def test_who_comes_first_goes_first_even_if_a_later_one_would_fit() -> None:
    memory = MediaMemory(10)
    came: list[str] = []

    async def hold(name: str, num_bytes: int, until: asyncio.Event) -> None:
        async with memory.room(num_bytes):
            came.append(name)
            await until.wait()

    first_done, rest_done = asyncio.Event(), asyncio.Event()
    tasks = [asyncio.create_task(hold("first", 8, first_done))]
    await turns()
    tasks += [asyncio.create_task(hold("large", 9, rest_done)), asyncio.create_task(hold("small", 1, rest_done))]
    await turns()
    assert came == ["first"]
    first_done.set()
    await turns()
    assert came == ["first", "large", "small"]
    rest_done.set()
    await asyncio.gather(*tasks)
    assert memory.held == 0


async def test_more_than_there_is_waits_for_all_of_it() -> None:
    memory = MediaMemory(10)
    async with memory.room(1000):
        assert memory.held == 10
    assert memory.held == 0


async def test_what_is_found_to_be_held_counts_from_then_on() -> None:
    memory = MediaMemory(10)
    async with AsyncExitStack() as stack:
        lease = await stack.enter_async_context(memory.room(9))
        waiting = asyncio.create_task(stack.enter_async_context(memory.room(5)))
        await turns()
        assert not waiting.done()
        lease.settle(3)
        await asyncio.wait_for(waiting, 30)
        assert memory.held == 8
        lease.settle(20)
        assert memory.held == 25
        with lease.also(7):
            assert memory.held == 32
        assert memory.held == 25
    assert memory.held == 0


async def test_one_that_gives_up_lets_the_next_one_in() -> None:
    memory = MediaMemory(10)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(memory.room(6))
        too_large = asyncio.create_task(stack.enter_async_context(memory.room(9)))
        fitting = asyncio.create_task(stack.enter_async_context(memory.room(4)))
        await turns()
        too_large.cancel()
        await asyncio.wait_for(fitting, 30)
        assert memory.held == 10
    assert memory.held == 0


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3), st.booleans()), max_size=12))
def test_the_limit_holds_nobody_is_forgotten_and_all_is_given_back(
    requests: list[tuple[int, int, bool]],
) -> None:
    async def run() -> None:
        memory = MediaMemory(20)

        async def hold(num_bytes: int, num_turns: int) -> None:
            async with memory.room(num_bytes):
                assert memory.held <= memory.limit
                await turns(num_turns)

        tasks = [asyncio.create_task(hold(num_bytes, num_turns)) for num_bytes, num_turns, _ in requests]
        await turns(2)
        for task, (_, _, gives_up) in zip(tasks, requests, strict=True):
            if gives_up:
                task.cancel()
        ends = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
        assert all(end is None or isinstance(end, asyncio.CancelledError) for end in ends)
        assert memory.held == 0

    asyncio.run(run())


@pytest.mark.parametrize(
    ("pixels", "num_pixels"),
    [
        (plain(resize="shortest_edge", height=224, crop=(224, 224), patch_size=32), 224 * 224),
        (plain(resize="exact", height=384, width=384, patch_size=16), 384 * 384),
        (plain(resize="smart", min_pixels=100, max_pixels=1_000_000, patch_size=14), 1_000_000),
        (plain(resize="patch_budget", max_patches=256, patch_size=16), 256 * 256),
        (plain(resize="shortest_edge", height=100, patch_size=10), 40_000),
    ],
)
def test_an_estimate_is_of_the_pixels_that_the_model_reads(pixels: PixelSpec, num_pixels: int) -> None:
    vision = VisionSpec(image=pixels, video=VideoSpec(pixels=pixels, fps=1, min_frames=1, max_frames=32))
    in_body, named = "x" * 5000, "https://example.com/a.jpg"
    likely = functools.partial(estimate, vision=vision, max_frames=32, in_flight=2)
    assert likely([MediaRef("image", in_body, "input")]) == 3 * num_pixels + 3750
    for count, in_flight in ((1, 1), (2, 2), (5, 2)):
        refs = [MediaRef("image", named, "input")] * count
        assert likely(refs) == count * 3 * num_pixels + in_flight * ENCODED_BYTES
    assert likely([MediaRef("video", in_body, "input")] * 2) == 2 * (32 * 3 * num_pixels + 3750)
