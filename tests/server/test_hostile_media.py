"""What strangers may send or serve as images and videos: each gets a 4xx that says why, and the server goes on."""

from __future__ import annotations

import asyncio
import struct
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from encoded_media import counting_frames, noise, png, saved, sound, video
from loopback_server import Asked, LoopbackServer, response
from served_images import ServedImages, base64_of, data_uri, origin, served_images

MAX_MB, MAX_PIXELS, TIMEOUT_SECONDS = 1, 1_000_000, 2.0
GOOD = png(60, 80)
LARGE = b"\0" * (MAX_MB * 2**20 + 1)


async def endless(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\n\r\n")
    while True:
        writer.write(GOOD * 100)
        await writer.drain()


async def slow(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
    while True:
        writer.write(b"\x89")
        await writer.drain()
        await asyncio.sleep(0.05)


async def silent(writer: asyncio.StreamWriter) -> None:
    del writer
    await asyncio.Event().wait()


def moved(location: str) -> bytes:
    return response(b"", status="302 Found", location=location)


WITHOUT_END = {"/endless": endless, "/slow": slow, "/silent": silent}
ANSWERS = {
    "/good.png": response(GOOD, content_type="image/png"),
    "/huge-length": response(b"", content_length=10**12),
    "/loop": moved("/loop"),
    "/to-metadata": moved("http://169.254.169.254/latest/meta-data"),
    "/to-file": moved("file:///etc/passwd"),
    "/to-other": moved("http://127.0.0.1:1/"),
    "/html": response(b"<html>", content_type="text/html"),
    "/gone": response(b"", status="404 Not Found"),
    "/headers": b"HTTP/1.1 200 OK\r\n" + b"x-a: " + b"b" * 200_000 + b"\r\n\r\n",
    "/bomb": response(zlib.compress(bytes(2**26)), content_encoding="deflate"),
}
ENDED_EARLY = {
    "/short-length": response(GOOD, content_length=len(GOOD) + 1000),
    "/no-http": b"SSH-2.0-OpenSSH_9.7\r\n\r\n",
}


async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """A host of the worst kind, by path."""
    if asked.target in WITHOUT_END:
        await WITHOUT_END[asked.target](writer)
    writer.write({**ANSWERS, **ENDED_EARLY}[asked.target])
    if asked.target in ENDED_EARLY:
        writer.close()


@pytest.fixture(scope="module")
def host() -> Iterator[LoopbackServer]:
    with origin(answer) as state:
        yield state


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, host: LoopbackServer) -> Iterator[ServedImages]:
    limits = {
        "--allowed-media-domains": f"localhost:{host.port}",
        "--max-media-mb": MAX_MB,
        "--max-image-pixels": MAX_PIXELS,
        "--max-video-seconds": 60,
        "--media-timeout": TIMEOUT_SECONDS,
        "--media-memory-mb": 64,
    }
    flags = [str(part) for pair in limits.items() for part in pair]
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "secret.png").write_bytes(GOOD)
    with served_images(folder, "clip", *flags) as served:
        (served.photos / "good.png").write_bytes(GOOD)
        (served.photos / "way-out.png").symlink_to(folder / "secret.png")
        (served.photos / "folder.png").mkdir()
        (served.photos / "large.png").write_bytes(LARGE)
        yield served


def png_of_size(width: int, height: int) -> bytes:
    """A header that claims a size, with next to no data."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    idat = chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + idat + chunk(b"IEND", b"")


SVG = b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>"
PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
LONG_VIDEO = video(counting_frames(10_000, height=16, width=16), codec="mpeg4", pix_fmt="yuv420p")
BROKEN_VIDEO = video(counting_frames(30), container="mp4", codec="mpeg4", pix_fmt="yuv420p")[:700]
LARGE_FRAMES = video([noise(1100, 1000)], codec="mjpeg", pix_fmt="yuvj420p")

IN_THE_BODY: dict[str, tuple[str, str, int]] = {
    "a bomb by its header": ("image", base64_of(png_of_size(100_000, 100_000)), 400),
    "a bomb by its data": ("image", base64_of(saved(Image.new("1", (8000, 8000)), "PNG")), 400),
    "no pixels": ("image", base64_of(png_of_size(0, 10)), 400),
    "a truncated image": ("image", base64_of(GOOD[: len(GOOD) // 2]), 400),
    "a text": ("image", base64_of(b"hello, world"), 400),
    "an SVG that includes a file": ("image", data_uri(SVG, "image/svg+xml"), 400),
    "a ZIP with a picture in it": ("image", base64_of(b"PK\x03\x04" + GOOD), 400),
    "a PDF that says it is a PNG": ("image", data_uri(b"%PDF-1.4\n" + GOOD), 400),
    "a PostScript program": ("image", base64_of(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), 400),
    "an empty data URI": ("image", "data:image/png;base64,", 400),
    "too large a file": ("image", base64_of(LARGE), 400),
    "no base64": ("image", "%%%not base64%%%", 400),
    "a video for an image": ("image", base64_of(video(counting_frames(3))), 400),
    "an image for a video": ("video", base64_of(GOOD), 400),
    "a video of 10 000 frames": ("video", base64_of(LONG_VIDEO), 400),
    "sound alone": ("video", base64_of(sound()), 400),
    "a playlist of files": ("video", base64_of(PLAYLIST), 400),
    "frames that are too large": ("video", base64_of(LARGE_FRAMES), 400),
    "a broken video": ("video", base64_of(BROKEN_VIDEO), 400),
}
OF_THE_HOST: dict[str, int] = {
    "/endless": 400,
    "/slow": 400,
    "/silent": 400,
    "/huge-length": 400,
    "/short-length": 400,
    "/loop": 400,
    "/to-metadata": 403,
    "/to-file": 400,
    "/to-other": 403,
    "/html": 400,
    "/gone": 400,
    "/headers": 400,
    "/no-http": 400,
    "/bomb": 400,
}
NOT_OPEN: dict[str, int] = {
    "http://169.254.169.254/latest/meta-data/": 403,
    "http://127.0.0.1:1/": 403,
    "http://2130706433/": 403,
    "http://0x7f.1/": 403,
    "http://[::ffff:127.0.0.1]/": 403,
    "http://user:password@localhost/": 400,  # pragma: allowlist secret
    "ftp://localhost/a.png": 400,
    "gopher://localhost/": 400,
    "/etc/passwd": 403,
    "file:///etc/passwd": 403,
    "file://elsewhere/a.png": 400,
    "relative/path.png": 400,
}


def check_refused(served: ServedImages, item: dict[str, str], status: int) -> str:
    began = time.monotonic()
    refused = served.post([{"text": "a neighbour"}, item])
    [kind] = item
    assert refused.status_code == status, refused.text
    error = refused.json()["error"]
    assert error["param"] == f"input[1].{kind}"
    assert len(error["message"]) < 500
    # the fetch's limit and the decoder's, and room for a busy machine
    assert time.monotonic() - began < 2 * TIMEOUT_SECONDS + 20
    return error["message"]


@pytest.mark.parametrize("name", IN_THE_BODY)
def test_a_hostile_body_is_refused(served: ServedImages, name: str) -> None:
    kind, given, status = IN_THE_BODY[name]
    check_refused(served, {kind: given}, status)


def test_a_deadline_ends_a_request_whose_image_is_being_fetched(served: ServedImages, host: LoopbackServer) -> None:
    late = served.post({"image": f"http://localhost:{host.port}/silent"}, timeout_ms=100)
    assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")


def test_nothing_is_fetched_for_an_adapter_that_nobody_knows(served: ServedImages, host: LoopbackServer) -> None:
    answer = served.post({"image": f"http://localhost:{host.port}/never"}, lora_path="unknown")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "adapter_not_found")
    assert all(asked.target != "/never" for asked in host.asked)


@pytest.mark.parametrize("path", OF_THE_HOST)
def test_a_hostile_host_is_given_up(served: ServedImages, host: LoopbackServer, path: str) -> None:
    message = check_refused(served, {"image": f"http://localhost:{host.port}{path}"}, OF_THE_HOST[path])
    assert "127.0.0.1" not in message
    assert "169.254" not in message


@pytest.mark.parametrize("given", NOT_OPEN)
def test_what_is_not_open_is_not_touched(served: ServedImages, given: str) -> None:
    check_refused(served, {"image": given}, NOT_OPEN[given])


@pytest.mark.parametrize(
    ("name", "status"),
    [("way-out.png", 403), ("../secret.png", 403), ("folder.png", 400), ("large.png", 400), ("missing.png", 400)],
)
def test_a_folder_that_is_open_is_no_way_out(served: ServedImages, name: str, status: int) -> None:
    message = check_refused(served, {"image": str(served.photos / name)}, status)
    assert str(served.photos.parent) not in message.replace(str(served.photos / name), "")


def test_afterwards_the_server_serves(served: ServedImages, host: LoopbackServer) -> None:
    """Last in this file: nothing above has harmed it, all at once neither."""
    bad: list[dict[str, str]] = [{kind: given} for kind, given, _ in IN_THE_BODY.values()]
    bad += [{"image": f"http://localhost:{host.port}{path}"} for path in OF_THE_HOST]
    bad += [{"image": given} for given in NOT_OPEN]
    with ThreadPoolExecutor(len(bad) + 1) as pool:
        refused = list(pool.map(served.post, bad))
        while_they_run = served.post("a text")
    assert while_they_run.status_code == 200
    assert all(400 <= answer.status_code < 500 for answer in refused)
    good: list[dict[str, Any]] = [
        {"image": base64_of(GOOD)},
        {"image": str(served.photos / "good.png")},
        {"image": f"http://localhost:{host.port}/good.png"},
    ]
    vectors = served.embed(good)
    np.testing.assert_allclose(vectors, np.repeat(vectors[:1], 3, axis=0), atol=1e-6)
    assert httpx.get(f"{served.server.url}/health").status_code == 200
    assert all(process.is_running() for process in psutil.Process(served.server.process.pid).children())


def test_nothing_is_said_of_the_servers_own_places(served: ServedImages, tmp_path: Path) -> None:
    there, not_there = tmp_path / "there.png", tmp_path / "not there.png"
    there.write_bytes(GOOD)
    messages = {check_refused(served, {"image": str(path)}, 403).replace(str(path), "") for path in (there, not_there)}
    assert len(messages) == 1
