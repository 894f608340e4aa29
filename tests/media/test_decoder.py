"""MediaDecoder with real workers: right answers, and an end for every item whatever becomes of its worker."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest
from PIL import Image

from embedway.errors import MediaBusy, MediaTooLarge, MediaUnreadable, ShuttingDown
from embedway.media.decoder import MediaDecoder
from embedway.media.images import decode_image
from embedway.media.limits import MediaLimits
from embedway.media.videos import decode_video
from encoded_media import CLIP, LIMITS, counting_frames, noise, png, saved, video, video_spec, vision_spec

CACHED = msgspec.structs.replace(LIMITS, cache_bytes=1 << 20)
GIF = saved(Image.fromarray(noise(16, 16)).quantize(16), "GIF")


@asynccontextmanager
async def decoder(limits: MediaLimits = LIMITS, *, num_workers: int = 1) -> AsyncGenerator[MediaDecoder]:
    made = MediaDecoder(vision_spec(), limits, num_workers=num_workers)
    try:
        yield made
    finally:
        await made.aclose()


def workers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "embedway.media.worker" in child.cmdline()]


async def until(condition: Callable[[], bool]) -> None:
    async def poll() -> None:
        while not condition():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(poll(), 60)


async def decode_image_of(made: MediaDecoder, seed: int = 0) -> np.ndarray:
    return (await made.decode(png(seed=seed), kind="image", param="input[0].image")).pixels


async def stopped_in_the_middle(made: MediaDecoder) -> tuple[asyncio.Task, psutil.Process]:
    """A decode whose worker stands still."""
    await decode_image_of(made, seed=99)
    (worker,) = workers()
    worker.suspend()
    task = asyncio.create_task(made.decode(png(), kind="image", param="input[3].image"))
    for _ in range(5):  # to where it waits for the worker
        await asyncio.sleep(0)
    return task, worker


async def test_a_worker_gives_what_decoding_here_gives() -> None:
    moving = video(counting_frames(60))
    async with decoder() as made:
        image = await made.decode(png(), kind="image", param="input")
        film = await made.decode(moving, kind="video", param="input")
    here = decode_image(png(), CLIP, LIMITS), decode_video(moving, video_spec(CLIP), LIMITS)
    for there, expected in zip((image, film), here, strict=True):
        assert np.array_equal(there.pixels, expected.pixels)
        assert (there.kind, there.num_tokens, there.timestamps) == (
            expected.kind,
            expected.num_tokens,
            expected.timestamps,
        )


async def test_workers_are_started_when_there_is_work_and_end_with_the_decoder() -> None:
    async with decoder(num_workers=2) as made:
        assert not workers()
        await asyncio.gather(*(decode_image_of(made, seed) for seed in range(6)))
        assert len(workers()) == 2
    assert not workers()


async def test_many_at_once_each_get_their_own() -> None:
    async with decoder(num_workers=2) as made:
        got = await asyncio.gather(*(decode_image_of(made, seed) for seed in range(40)))
    for seed, pixels in enumerate(got):
        assert np.array_equal(pixels, decode_image(png(seed=seed), CLIP, LIMITS).pixels)


async def test_a_refused_item_names_its_field_and_the_cause() -> None:
    async with decoder() as made:
        with pytest.raises(MediaUnreadable, match=r"'input\[7\].image' cannot be read as an image: it is not a JPEG"):
            await made.decode(b"<svg/>", kind="image", param="input[7].image")
        with pytest.raises(MediaTooLarge, match=r"'input' has 3000 x 3000 pixels.*4000000 pixels.*--max-image-pixels"):
            await made.decode(saved(Image.new("1", (3000, 3000)), "PNG"), kind="image", param="input")
        assert (await decode_image_of(made)).shape == (1, 224, 224, 3)
        assert len(workers()) == 1


async def test_a_compressed_bomb_within_the_pixel_limit_is_an_image() -> None:
    bomb = saved(Image.new("RGB", (2000, 2000)), "PNG")
    assert len(bomb) < 100_000
    async with decoder() as made:
        assert not (await made.decode(bomb, kind="image", param="input")).pixels.any()


async def test_a_file_larger_than_allowed_is_refused() -> None:
    async with decoder(msgspec.structs.replace(LIMITS, max_data_bytes=10)) as made:
        with pytest.raises(MediaTooLarge, match="--max-media-mb"):
            await made.decode(png(), kind="image", param="input")


async def test_a_worker_that_is_killed_costs_its_one_item() -> None:
    async with decoder() as made:
        task, worker = await stopped_in_the_middle(made)
        waiting = asyncio.create_task(decode_image_of(made, seed=1))
        await asyncio.sleep(0)
        worker.kill()
        with pytest.raises(MediaUnreadable, match=r"'input\[3\].image'.*the decoder failed on it"):
            await task
        assert np.array_equal(await waiting, decode_image(png(seed=1), CLIP, LIMITS).pixels)


async def test_a_worker_that_is_killed_while_idle_costs_none() -> None:
    async with decoder() as made:
        await decode_image_of(made)
        (worker,) = workers()
        worker.kill()
        await until(lambda: not made._pool._idle[0].is_alive)
        assert (await decode_image_of(made, seed=1)).any()


async def test_a_decode_that_takes_too_long_is_ended() -> None:
    async with decoder(msgspec.structs.replace(LIMITS, timeout_seconds=1.0)) as made:
        task, worker = await stopped_in_the_middle(made)
        with pytest.raises(MediaUnreadable, match="longer than 1 seconds"):
            await task
        assert not worker.is_running()
        assert (await decode_image_of(made, seed=1)).any()


async def test_no_memory_costs_one_item() -> None:
    """20 000 x 20 000 pixels are allowed here, but their memory is not: the worker gets less than it gave itself."""
    async with decoder(msgspec.structs.replace(LIMITS, max_image_pixels=2_000_000_000, timeout_seconds=30.0)) as made:
        await decode_image_of(made)
        (worker,) = workers()
        resource.prlimit(worker.pid, resource.RLIMIT_AS, (1 << 30, 1 << 30))
        with pytest.raises(MediaUnreadable, match="needs more memory"):
            await made.decode(saved(Image.new("1", (20_000, 20_000)), "PNG"), kind="image", param="input")
        assert (await decode_image_of(made, seed=1)).any()


async def test_workers_are_limited() -> None:
    async with decoder() as made:
        await decode_image_of(made)
        (worker,) = workers()
        assert resource.prlimit(worker.pid, resource.RLIMIT_AS)[1] != resource.RLIM_INFINITY
        assert resource.prlimit(worker.pid, resource.RLIMIT_CORE) == (0, 0)
        assert worker.nice() == min(psutil.Process().nice() + 5, 19)


async def test_equal_files_at_once_are_decoded_once() -> None:
    async with decoder() as made:
        task, worker = await stopped_in_the_middle(made)
        others = [
            asyncio.create_task(made.decode(png(), kind="image", param=f"input[{number}]")) for number in range(3)
        ]
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        worker.resume()
        first, *rest = await asyncio.gather(*others)
        assert all(visual is first for visual in rest)


async def test_a_shared_refusal_names_each_ones_own_field() -> None:
    async with decoder() as made:
        fields = ["input[0]", "input[1]", "input[2]"]
        decodes = (made.decode(b"text", kind="image", param=field) for field in fields)
        refusals = await asyncio.gather(*decodes, return_exceptions=True)
    assert [refusal.param for refusal in refusals if isinstance(refusal, MediaUnreadable)] == fields


async def test_a_decode_that_was_given_up_can_be_asked_for_again_at_once() -> None:
    async with decoder() as made:
        task, worker = await stopped_in_the_middle(made)
        task.cancel()
        again = asyncio.create_task(decode_image_of(made))  # takes its first step right after the other's last
        with pytest.raises(asyncio.CancelledError):
            await task
        worker.resume()
        assert (await again).any()


async def test_a_decoded_file_comes_from_the_cache() -> None:
    async with decoder(CACHED) as made:
        first = await made.decode(png(), kind="image", param="input")
        assert await made.decode(png(), kind="image", param="input") is first
        assert (made.cache.hits, made.cache.misses) == (1, 1)
        assert not first.pixels.flags.writeable
        with pytest.raises(MediaUnreadable):
            await made.decode(b"text", kind="image", param="input")
        assert made.cache.num_bytes == first.num_bytes


async def test_a_small_file_goes_before_a_large_one() -> None:
    large = saved(Image.fromarray(np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), dtype=np.uint8)), "PNG")
    order = []
    async with decoder() as made:
        task, worker = await stopped_in_the_middle(made)
        waiting = []
        for name, data in (("large", large), ("small", GIF)):
            waiting.append(asyncio.create_task(made.decode(data, kind="image", param=name), name=name))
            waiting[-1].add_done_callback(lambda done: order.append(done.get_name()))
            await until(lambda: len(made._pool._waiting) == len(waiting))
        worker.resume()
        await asyncio.gather(task, *waiting)
    assert order == ["small", "large"]


async def test_bytes_that_wait_are_bounded() -> None:
    async with decoder(msgspec.structs.replace(LIMITS, max_queued_bytes=len(GIF) + 100)) as made:
        await made.decode(GIF, kind="image", param="input")
        (worker,) = workers()
        worker.suspend()
        running = asyncio.create_task(made.decode(GIF, kind="image", param="input"))
        waiting = asyncio.create_task(made.decode(GIF + b"1", kind="image", param="input"))
        await asyncio.sleep(0)
        with pytest.raises(MediaBusy, match=r"'input\[5\]'"):
            await made.decode(GIF + b"22", kind="image", param="input[5]")
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        last = asyncio.create_task(made.decode(GIF + b"22", kind="image", param="input"))
        worker.resume()
        await asyncio.gather(running, last)


async def test_closing_ends_whoever_waits() -> None:
    async with decoder() as made:
        task, _ = await stopped_in_the_middle(made)
        waiting = asyncio.create_task(decode_image_of(made, seed=1))
        await asyncio.sleep(0)
        await made.aclose()
        for pending in (task, waiting):
            with pytest.raises(ShuttingDown):
                await pending
    assert not workers()


PARENT = """
import asyncio, os, signal, sys
from encoded_media import LIMITS, png, vision_spec
from embedway.media.decoder import MediaDecoder

async def main():
    decoder = MediaDecoder(vision_spec(), LIMITS, num_workers=1)
    await decoder.decode(png(), kind="image", param="input")
    print(decoder._pool._idle[0].pid, flush=True)
    os.kill(decoder._pool._idle[0].pid, signal.SIGSTOP)
    await decoder.decode(png(seed=1), kind="image", param="input")

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
async def test_a_worker_dies_with_its_parent_in_the_middle_of_a_decode() -> None:
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
    )
    assert parent.stdout is not None
    worker = psutil.Process(int(await parent.stdout.readline()))
    parent.kill()
    await parent.wait()
    await until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)
