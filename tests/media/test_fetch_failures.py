from __future__ import annotations

import asyncio
import gzip
import ssl

import pytest

from embedway.errors import MediaFetchFailed, MediaTooLarge, RequestError
from embedway.media.fetch import FAULTS, Fetcher, _translated
from loopback_server import Answer, Asked, always, response, serving
from media_fetching import (
    HOST,
    PARAM,
    fetch_from,
    fetching,
    media_rules,
    refusal,
    silent,
)


@pytest.mark.parametrize(
    "status",
    ["404 Not Found", "403 F", "500 Oops", "204 No Content", "206 Partial", "304 Not Modified", "302 No Location"],
)
async def test_another_status_is_told(status: str) -> None:
    refused = await refusal(always(response(b"", status=status, content_length=None if status[0] != "2" else 0)))
    assert isinstance(refused, MediaFetchFailed)
    assert f"status {status[:3]}" in refused.message


@pytest.mark.parametrize("content_type", ["text/html", "Text/HTML; charset=utf-8", "application/xhtml+xml"])
async def test_a_web_page_is_told(content_type: str) -> None:
    assert "web page" in (await refusal(always(response(b"<html>", content_type=content_type)))).message


async def test_a_body_that_says_it_is_too_large_is_not_read() -> None:
    refused = await refusal(always(b"HTTP/1.1 200 OK\r\nContent-Length: 10001\r\n\r\n"))
    assert isinstance(refused, MediaTooLarge)
    assert "10001 bytes" in refused.message


async def test_the_limit_holds_to_the_byte() -> None:
    assert await fetch_from(always(response(bytes(100))), max_bytes=100) == bytes(100)
    assert isinstance(await refusal(always(response(bytes(101))), max_bytes=100), MediaTooLarge)


async def endless(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not writer.is_closing():
        writer.write(b"1000\r\n" + bytes(0x1000) + b"\r\n")
        await writer.drain()


async def slow_body(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n")
    while not writer.is_closing():
        writer.write(b"x")
        await asyncio.sleep(0.01)


async def slow_head(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while not writer.is_closing():
        writer.write(b"x")
        await asyncio.sleep(0.01)


async def slow_redirects(asked: Asked, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(0.15)
    writer.write(response(b"", status="302 F", location=asked.target + "x"))


async def forever_to_be_continued(asked: Asked, writer: asyncio.StreamWriter) -> None:
    while not writer.is_closing():
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 10)
        await asyncio.sleep(0.001)


async def test_an_endless_body_is_cut_at_the_limit() -> None:
    assert isinstance(await refusal(endless), MediaTooLarge)


@pytest.mark.parametrize("answer", [silent, slow_body, slow_head, slow_redirects, forever_to_be_continued])
async def test_the_time_limit_holds_from_connecting_to_the_last_byte(answer: Answer) -> None:
    refused = await refusal(answer, seconds=0.3)
    assert isinstance(refused, MediaFetchFailed)
    assert "longer than 0.3 seconds (--media-timeout)" in refused.message


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "deflate", "br", "identity, gzip"])
async def test_a_compressed_body_is_not_unpacked(encoding: str) -> None:
    bomb = gzip.compress(bytes(1_000_000))
    assert len(bomb) < 10_000
    refused = await refusal(always(response(bomb, content_encoding=encoding)))
    assert isinstance(refused, MediaFetchFailed)
    assert "compressed" in refused.message


@pytest.mark.parametrize(
    "content",
    [
        b"HTTP/1.1 200 OK\r\nX-Bomb: " + b"x" * 200_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: y\r\n" % i for i in range(20_000)) + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n",
        b"HTTP/1.1 99999 OK\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"\x00\xff\x16\x03\x01\r\n\r\n",
        b"\r\n" * 100_000,
    ],
    ids=lambda content: repr(content[:40]),
)
async def test_what_is_not_http_is_refused(content: bytes) -> None:
    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(content)
        writer.close()

    assert "not valid HTTP" in (await refusal(answer)).message


@pytest.mark.parametrize("content", [b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort", b"", b"HTTP/1.1 200"])
async def test_an_answer_that_is_cut_short_is_refused(content: bytes) -> None:
    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(content)
        writer.close()

    assert "cut short" in (await refusal(answer)).message


async def test_what_follows_the_announced_length_is_not_read() -> None:
    assert await fetch_from(always(response(b"abcdef", content_length=3))) == b"abc"


async def test_a_connection_that_breaks_off_is_told() -> None:
    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort")
        await writer.drain()
        writer.transport.abort()

    assert isinstance(await refusal(answer), MediaFetchFailed)


async def test_a_host_that_does_not_listen_is_told() -> None:
    async with serving(always(b"")) as server:
        port = server.port
    async with fetching(media_rules(HOST)) as fetcher:
        with pytest.raises(MediaFetchFailed, match="cannot be reached") as caught:
            await fetcher.fetch(f"http://{HOST}:{port}/", kind="image", param=PARAM)
    assert "127.0.0.1" not in caught.value.message


async def test_a_name_that_cannot_be_resolved_is_told() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        raise OSError("Name or service not known at 10.0.0.53")

    fetcher = Fetcher(media_rules(), resolve, ssl.create_default_context())
    with pytest.raises(MediaFetchFailed, match="cannot be resolved") as caught:
        await fetcher.fetch("http://a.example/", kind="image", param=PARAM)
    assert "10.0.0.53" not in caught.value.message
    await fetcher.aclose()


@pytest.mark.parametrize(("fault", "kind", "problem"), FAULTS)
def test_each_fault_is_told_in_our_words(fault: type[Exception], kind: type[RequestError], problem: str) -> None:
    for error in (fault("10.0.0.1 said no"), _caused_by(fault("10.0.0.1 said no"))):
        told = _translated(error, PARAM)
        assert type(told) is kind
        assert problem in told.message
        assert "10.0.0.1" not in told.message


def _caused_by(cause: Exception) -> Exception:
    error = OSError("10.0.0.1")
    error.__context__ = cause
    return error
