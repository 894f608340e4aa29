from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from certificates import make_certificate
from embedway.load_test.client import Client, NoAnswer
from embedway.load_test.target import read_target
from loopback_server import Answer, Asked, LoopbackServer, always, response, serving


@contextlib.asynccontextmanager
async def client_of(answer: Answer, *, timeout: float = 30.0) -> AsyncGenerator[tuple[Client, LoopbackServer, bytes]]:
    """A client, its server and a request."""
    async with serving(answer) as server:
        target = read_target(f"http://127.0.0.1:{server.port}", None)
        client = Client(target, timeout=timeout)
        try:
            yield client, server, target.head("GET", "/")
        finally:
            client.close()


async def test_requests_after_each_other_share_a_connection() -> None:
    async with client_of(always(response(b"yes"))) as (client, server, request):
        answers = [await client.send(request) for _ in range(3)]
    assert [(answer.status, answer.body) for answer in answers] == [(200, b"yes")] * 3
    assert server.num_connections == 1


async def test_requests_at_the_same_time_have_a_connection_each() -> None:
    both = asyncio.Event()

    async def once_both_are_there(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if server.num_connections == 2:
            both.set()
        await both.wait()
        writer.write(response(b"yes"))

    async with client_of(once_both_are_there) as (client, server, request):
        await asyncio.gather(client.send(request), client.send(request))


async def test_a_chunked_answer_is_read_whole() -> None:
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nye\r\n1\r\ns\r\n0\r\n\r\n"
    async with client_of(always(chunked)) as (client, _, request):
        assert (await client.send(request)).body == b"yes"


async def test_a_connection_that_the_server_closes_is_not_used_again() -> None:
    async with client_of(always(response(b"yes", connection="close"))) as (client, server, request):
        for _ in range(2):
            assert (await client.send(request)).status == 200
    assert server.num_connections == 2


@pytest.mark.parametrize(
    ("value", "seconds"), [("7", 7.0), ("999999", 3600.0), ("Wed, 21 Oct 2026 07:28:00 GMT", None)]
)
async def test_the_seconds_of_retry_after_are_read(value: str, seconds: float | None) -> None:
    async with client_of(always(response(b"", status="429 Too Many", retry_after=value))) as (client, _, request):
        answer = await client.send(request)
    assert (answer.status, answer.retry_after) == (429, seconds)


async def test_one_answer_s_retry_after_is_not_the_next_one_s() -> None:
    answers = iter([response(b"", retry_after=7), response(b"")])

    async def one_after_the_other(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(next(answers))

    async with client_of(one_after_the_other) as (client, _, request):
        assert [(await client.send(request)).retry_after for _ in range(2)] == [7.0, None]


async def hang_up(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def say_nothing(asked: Asked, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("answer", "timeout", "says"),
    [
        (hang_up, 30.0, "connection closed"),
        (say_nothing, 0.05, "timeout"),
        (always(b"SSH-2.0-OpenSSH\r\n\r\n"), 30.0, "not HTTP/1.1"),
    ],
    ids=["hangs up", "says nothing", "speaks otherwise"],
)
async def test_why_there_is_no_answer_is_said(answer: Answer, timeout: float, says: str) -> None:
    async with client_of(answer, timeout=timeout) as (client, _, request):
        with pytest.raises(NoAnswer, match=says):
            await client.send(request)


async def test_nobody_who_listens_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        client = Client(read_target(f"127.0.0.1:{taken.getsockname()[1]}", None), timeout=30)
        with pytest.raises(NoAnswer, match="cannot connect"):
            await client.send(b"")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for 127.0.0.1, signed by itself, in one file."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    certificate, key = path.with_suffix(".crt"), path.with_suffix(".key")
    make_certificate(certificate, key)
    path.write_text(certificate.read_text() + key.read_text())
    return path


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


async def test_https_is_spoken_with_a_server_whose_certificate_is_trusted(
    certificate: Path, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with serving(always(response(b"yes")), tls) as server:
        target = read_target(f"https://127.0.0.1:{server.port}", None)
        client = Client(target, timeout=30)
        assert (await client.send(target.head("GET", "/"))).body == b"yes"
        client.close()


async def test_a_certificate_that_nobody_trusts_is_refused(tls: ssl.SSLContext) -> None:
    async with serving(always(response(b"yes")), tls) as server:
        target = read_target(f"https://127.0.0.1:{server.port}", None)
        with pytest.raises(NoAnswer, match="TLS failed"):
            await Client(target, timeout=30).send(target.head("GET", "/"))


async def test_connections_may_be_opened_beforehand() -> None:
    async with client_of(always(response(b"yes"))) as (client, server, request):
        await client.open(3)
        await client.send(request)
        await client.open(3)
        assert len(server.open_connections) == server.num_connections == 3
