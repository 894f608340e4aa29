"""A tiny CLIP behind a real server, and what transformers makes of the same images."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
from PIL import Image
from transformers.image_utils import load_image

from dual_checkpoints import Reference, dual_checkpoint
from loopback_server import Answer, LoopbackServer, serving
from running_server import RunningServer

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ServedImages:
    server: RunningServer
    reference: Reference
    photos: Path
    """The folder that requests may name"""

    def post(self, value: object, **fields: Any) -> httpx.Response:
        return self.post_to("/v1/embeddings", model="images", input=value, **fields)

    def post_to(self, route: str, **body: Any) -> httpx.Response:
        return httpx.post(f"{self.server.url}{route}", json=body, timeout=120)

    def embed(self, value: object, **fields: Any) -> Matrix:
        answer = self.post(value, **fields)
        assert answer.status_code == 200, answer.text
        return np.array([entry["embedding"] for entry in answer.json()["data"]], dtype=np.float32)

    def text_vector(self, text: str) -> Matrix:
        return unit(self.reference.text(self.reference.tokenizer(text)["input_ids"]))

    def image_vector(self, data: bytes) -> Matrix:
        return unit(self.reference.image(load_image(Image.open(io.BytesIO(data)))))


@contextmanager
def served_images(folder: Path, family: str = "clip", *arguments: str) -> Generator[ServedImages]:
    checkpoint = dual_checkpoint(family, folder / "images")
    photos = folder / "photos"
    photos.mkdir()
    flags = ("--dtype", "float32", "--allowed-local-media-path", str(photos), *arguments)
    with RunningServer(str(checkpoint), *flags) as server:
        yield ServedImages(server, Reference(checkpoint), photos)


@contextmanager
def origin(answer: Answer) -> Generator[LoopbackServer]:
    """`loopback_server.serving` for tests that are no coroutines: in a thread with an event loop of its own."""
    started = threading.Event()
    found: list[LoopbackServer] = []
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def run() -> None:
        async with serving(answer) as state:
            found.append(state)
            started.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    assert started.wait(30)
    try:
        yield found[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        loop.close()


def unit(vector: Matrix) -> Matrix:
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def data_uri(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64_of(data)}"
