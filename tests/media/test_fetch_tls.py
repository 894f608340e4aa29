from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from certificates import make_certificate
from embedway.errors import MediaFetchFailed
from embedway.media.fetch import tls_context
from loopback_server import always, response, serving
from media_fetching import (
    BYTES,
    HOST,
    PARAM,
    fetching,
    media_rules,
    redirecting,
    silent,
)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for `media.test`, signed by itself."""
    folder = tmp_path_factory.mktemp("tls")
    make_certificate(folder / "certificate", folder / "key", f"DNS:{HOST}")
    return folder


@pytest.fixture
def server_tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "certificate", certificate / "key")
    return context


@pytest.fixture
def client_tls(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate / "certificate"))


async def test_tls_is_verified_against_the_name(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    domains = (HOST, "other.test", "127.0.0.1")
    async with (
        serving(always(response(BYTES)), server_tls) as server,
        fetching(media_rules(*domains), client_tls) as fetcher,
    ):
        url = f"https://{HOST}:{server.port}/"
        assert await fetcher.fetch(url, kind="image", param=PARAM) == BYTES
        for host in ("other.test", "127.0.0.1"):  # the same address, and a connection to it that is open
            with pytest.raises(MediaFetchFailed, match="certificate"):
                await fetcher.fetch(f"https://{host}:{server.port}/", kind="image", param=PARAM)
    assert len(server.asked) == 1


async def test_a_certificate_of_nobody_who_is_trusted_is_refused(server_tls: ssl.SSLContext) -> None:
    async with (
        serving(always(response(BYTES)), server_tls) as server,
        fetching(media_rules(HOST), tls_context()) as fetcher,
    ):
        with pytest.raises(MediaFetchFailed, match="certificate"):
            await fetcher.fetch(f"https://{HOST}:{server.port}/", kind="image", param=PARAM)


async def test_a_server_without_tls_is_told() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(response(BYTES))
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, fetching(media_rules(HOST)) as fetcher:
        with pytest.raises(MediaFetchFailed, match="TLS"):
            await fetcher.fetch(f"https://{HOST}:{port}/", kind="image", param=PARAM)


@pytest.mark.parametrize("is_given_up", [True, False], ids=["caller gives up", "time is up"])
async def test_a_handshake_that_never_ends_leaves_no_connection(is_given_up: bool) -> None:
    """The server waits for the end of a request, which a handshake does not bring."""
    seconds = 30.0 if is_given_up else 0.2
    async with serving(silent) as server, fetching(media_rules(HOST, timeout_seconds=seconds)) as fetcher:
        fetching_it = asyncio.create_task(fetcher.fetch(f"https://{HOST}:{server.port}/", kind="image", param=PARAM))
        while not server.open_connections:
            await asyncio.sleep(0.002)
        if is_given_up:
            fetching_it.cancel()
        with pytest.raises(asyncio.CancelledError if is_given_up else MediaFetchFailed):
            await fetching_it
        await server.until_closed()


async def test_no_redirect_leads_out_of_tls(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    answer = redirecting("http://media.test:{port}/b")
    async with serving(answer, server_tls) as server, fetching(media_rules(HOST), client_tls) as fetcher:
        with pytest.raises(MediaFetchFailed, match="from https to http"):
            await fetcher.fetch(f"https://{HOST}:{server.port}/a.png", kind="image", param=PARAM)
