"""Images over HTTP beside their decoding alone, the model alone, and sentence-transformers: python -m benchmarks.images

The shape of CLIP ViT-B/32 with random weights, made-up photographs as JPEGs of ImageNet's average size, each sent once
as a data URI; nothing is cached. All take turns on the same cores, in another order each round; figures are medians
over the rounds. sentence-transformers is given opened files, so it decodes them, too.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import orjson
from PIL import Image

from benchmarks.checkpoints import write_random_clip
from benchmarks.http_load import HOST, SERVED_NAME, run_load
from benchmarks.machine import read_machine
from benchmarks.peers import OURS, PEERS, Server
from benchmarks.photos import HEIGHT, WIDTH, jpeg, photo
from benchmarks.running_peer import RunningServer
from embedway.media.decoder import MediaDecoder
from embedway.media.limits import MediaLimits
from embedway.models.architectures import load_model
from embedway.models.checkpoint import read_spec
from embedway.models.cpu_threads import available_cores
from embedway.models.interface import EmbeddingModel, PackedBatch
from embedway.visual import VISUAL_TOKEN, Visual

BATCH = 8
"""Images of a batch of the model alone; larger ones are no faster"""
CONNECTIONS = 32


def post(image: bytes) -> bytes:
    """A whole HTTP request."""
    uri = "data:image/jpeg;base64," + base64.b64encode(image).decode()
    body = orjson.dumps({"model": SERVED_NAME, "input": [{"image": uri}], "encoding_format": "base64"})
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def packed(visuals: list[Visual]) -> PackedBatch:
    lengths = [visual.num_tokens for visual in visuals]
    return PackedBatch(
        token_ids=np.full(sum(lengths), VISUAL_TOKEN, np.int32),
        cu_seqlens=np.cumsum([0, *lengths], dtype=np.int32),
        pool_starts=np.zeros(len(visuals), np.int32),
        visuals={i: (visual,) for i, visual in enumerate(visuals)},
    )


class Decoding:
    """The decoder by itself, with as many workers as the server has."""

    def __init__(self, spec_folder: Path) -> None:
        spec = read_spec(spec_folder, name=str(spec_folder))
        assert spec.vision is not None
        limits = MediaLimits(
            max_image_pixels=64_000_000, max_video_seconds=60, max_tokens=spec.max_length, timeout_seconds=60
        )
        self._loop = asyncio.new_event_loop()
        self._decoder = MediaDecoder(spec.vision, limits, num_workers=available_cores())

    def __call__(self, images: list[bytes]) -> list[Visual]:
        async def decode_all() -> list[Visual]:
            decodes = (self._decoder.decode(image, kind="image", param="image") for image in images)
            return await asyncio.gather(*decodes)

        return self._loop.run_until_complete(decode_all())

    def close(self) -> None:
        self._loop.run_until_complete(self._decoder.aclose())
        self._loop.close()


def run_model(model: EmbeddingModel, visuals: list[Visual]) -> None:
    for first in range(0, len(visuals), BATCH):
        model.embed(packed(visuals[first : first + BATCH]))


def sentence_transformers(folder: Path) -> Callable[[list[bytes]], object]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    return lambda images: model.encode(
        [Image.open(io.BytesIO(image)) for image in images], batch_size=32, show_progress_bar=False
    )


def our_server(folder: Path, dtype: str) -> RunningServer:
    ours = PEERS[OURS]
    assert isinstance(ours, Server)
    command = (*ours.command, "--media-cache-mb", "0", "--dtype", dtype)
    server = Server(name=OURS, environment=None, distribution=ours.distribution, command=command, path=ours.path)
    return RunningServer(server, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=192, help="a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtypes", nargs="*", default=["float32", "auto"])
    arguments = parser.parse_args()
    print(read_machine())
    print(
        f"{arguments.images} JPEGs of {WIDTH} x {HEIGHT} a round, {arguments.rounds} rounds, {CONNECTIONS} connections"
    )
    images = [jpeg(photo(seed)) for seed in range(arguments.images)]
    requests = [post(image) for image in images]
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary) / "clip"
        write_random_clip(folder)
        decoding = Decoding(folder)
        stack.callback(decoding.close)
        visuals = decoding(images)
        contestants: dict[str, Callable[[], object]] = {"decoding alone": lambda: decoding(images)}
        spec = read_spec(folder, name=str(folder))
        for dtype in arguments.dtypes:
            model = load_model(spec, dtype=dtype, device="cpu", threads=available_cores())
            server = our_server(folder, dtype)
            stack.callback(server.stop)
            contestants[f"model alone, {dtype} ({model.dtype})"] = lambda model=model: run_model(model, visuals)
            contestants[f"over HTTP, {dtype}"] = lambda server=server: run_load(
                server.port, requests, connections=CONNECTIONS, seconds=float("inf")
            )
        theirs = sentence_transformers(folder)
        contestants["sentence-transformers"] = lambda: theirs(images)
        for name, speed in measure(contestants, len(images), arguments.rounds).items():
            print(f"| {name} | {speed:.1f} |")


def measure(contestants: dict[str, Callable[[], object]], num_images: int, rounds: int) -> dict[str, float]:
    """Images a second, the median over the rounds; one before them warms up."""
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    order = list(contestants)
    for i in range(rounds + 1):
        random.Random(i).shuffle(order)
        for name in order:
            began = time.perf_counter()
            contestants[name]()
            if i:
                speeds[name].append(num_images / (time.perf_counter() - began))
    return {name: statistics.median(found) for name, found in speeds.items()}


if __name__ == "__main__":
    main()
