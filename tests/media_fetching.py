"""Fetching from real servers on loopback, by names that a resolver of the tests knows."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest

from embedway.errors import RequestError
from embedway.media.fetch import Fetcher
from embedway.media.rules import MediaRules, read_allowed_domains
from loopback_server import Answer, Asked, response, serving

PARAM = "input[2].image"
HOST = "media.test"
BYTES = b"an image, or what passes for one"


async def to_loopback(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


def media_rules(
    *domains: str,
    max_bytes: int = 10_000,
    timeout_seconds: float = 30.0,
    allows_remote: bool = True,
    roots: Sequence[Path] = (),
) -> MediaRules:
    return MediaRules(read_allowed_domains(domains), allows_remote, tuple(roots), max_bytes, timeout_seconds)


@contextlib.asynccontextmanager
async def fetching(rules: MediaRules, tls: ssl.SSLContext | None = None) -> AsyncGenerator[Fetcher, None]:
    fetcher = Fetcher(rules, to_loopback, tls or ssl.create_default_context())
    try:
        yield fetcher
    finally:
        await fetcher.aclose()


async def fetch_from(answer: Answer, path: str = "/a.png", *, max_bytes: int = 10_000, seconds: float = 30.0) -> bytes:
    """What a server that answers so gives; afterwards no connection but an idle one may be left."""
    rules = media_rules(HOST, max_bytes=max_bytes, timeout_seconds=seconds)
    async with fetching(rules) as fetcher, serving(answer) as server:
        return await fetcher.fetch(f"http://{HOST}:{server.port}{path}", kind="image", param=PARAM)


async def refusal(answer: Answer, *, max_bytes: int = 10_000, seconds: float = 30.0) -> RequestError:
    with pytest.raises(RequestError) as caught:
        await fetch_from(answer, max_bytes=max_bytes, seconds=seconds)
    assert PARAM in caught.value.message
    assert "127.0.0.1" not in caught.value.message
    return caught.value


def redirecting(location: str, status: str = "302 Found") -> Answer:
    """`/a.png` leads to `location`, and all else is there."""

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.target == "/a.png":
            port = writer.get_extra_info("sockname")[1]
            writer.write(response(b"moved", status=status, location=location.format(port=port)))
        else:
            writer.write(response(BYTES))

    return answer


async def silent(asked: Asked, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()
