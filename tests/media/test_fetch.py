from __future__ import annotations

import asyncio
import contextlib
import itertools
import ssl

import httpcore
import pytest

from embedway.errors import InvalidValue, MediaFetchFailed, MediaNotAllowed
from embedway.media.checked_network import CheckedNetwork
from embedway.media.fetch import MOST_FETCHES_OF_ONE_HOST, Fetcher, Redirect
from loopback_server import Asked, LoopbackServer, always, response, serving
from media_fetching import (
    BYTES,
    HOST,
    PARAM,
    fetch_from,
    fetching,
    media_rules,
    redirecting,
    refusal,
    silent,
    to_loopback,
)


async def test_the_bytes_arrive_as_they_are() -> None:
    assert await fetch_from(always(response(BYTES, content_type="image/png"))) == BYTES


async def test_a_chunked_body_and_one_that_ends_with_the_connection_arrive() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"
    assert await fetch_from(always(chunked)) == b"abcdefg"

    async def until_end(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nabc")
        writer.close()

    assert await fetch_from(until_end) == b"abc"


async def test_the_request_says_who_asks_and_nothing_of_anybody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    cookie = response(BYTES, set_cookie="a=b")
    async with fetching(media_rules(HOST)) as fetcher, serving(always(cookie)) as server:
        for _ in range(2):
            await fetcher.fetch(f"http://{HOST.upper()}.:{server.port}/a b?c=d#e", kind="video", param=PARAM)
    for asked in server.asked:
        assert asked.target == "/a%20b?c=d"
        assert asked.headers["host"] == f"{HOST}:{server.port}"
        assert asked.headers["user-agent"].startswith("embedway/")
        assert asked.headers["accept"].startswith("video/")
        assert asked.headers["accept-encoding"] == "identity"
        assert set(asked.headers) == {"host", "user-agent", "accept", "accept-encoding"}
    assert (len(server.asked), server.num_connections) == (2, 1)


@pytest.mark.parametrize(
    "url",
    [
        *(
            "http://127.0.0.1:{}/",
            "http://127.1:{}/",
            "http://2130706433:{}/",
            "http://0x7f.1:{}/",
            "http://0x7f000001:{}/",
        ),
        *(
            "http://017700000001:{}/",
            "http://127.0.0.1.:{}/",
            "http://127。0。0。1:{}/",
            "http://0.0.0.0:{}/",
            "http://0:{}/",
        ),
        *("http://[::1]:{}/", "http://[::]:{}/", "http://[::ffff:127.0.0.1]:{}/", "http://[::127.0.0.1]:{}/"),
        *(
            "http://[64:ff9b::127.0.0.1]:{}/",
            "http://[2002:7f00:1::]:{}/",
            "http://LOCALHOST:{}/",
            "http://localhost.:{}/",
        ),
        *("https://127.0.0.1:{}/", "http://anything.example:{}/", "http://169.254.169.254/", "http://[fd00:ec2::254]/"),
    ],
)
async def test_this_machine_is_not_asked_however_it_is_spelled(url: str) -> None:
    async with fetching(media_rules()) as fetcher, serving(always(response(BYTES))) as server:
        with pytest.raises(MediaNotAllowed, match="not public") as caught:
            await fetcher.fetch(url.format(server.port), kind="image", param=PARAM)
    assert PARAM in caught.value.message
    assert server.num_connections == 0


@pytest.mark.parametrize(
    "url",
    [
        *("http://0177.0.0.1:{}/", "http://[::1%25lo]:{}/", "http://[fe80::1%lo]:{}/", "http://%31%32%37.0.0.1:{}/"),
        *(
            "http://user@media.test:{}/",
            "http://u:p@media.test:{}/",
            "http://media.test:{}@127.0.0.1/",
            "http:///a",
            "http://a b/",
        ),
    ],
)
async def test_a_url_that_is_read_in_two_ways_is_not_asked(url: str) -> None:
    async with fetching(media_rules(HOST, "127.0.0.1")) as fetcher, serving(always(response(BYTES))) as server:
        with pytest.raises(InvalidValue):
            await fetcher.fetch(url.format(server.port), kind="image", param=PARAM)
    assert server.num_connections == 0


async def test_only_the_hosts_that_the_operator_named_are_asked() -> None:
    async with (
        serving(always(response(BYTES))) as server,
        fetching(media_rules(f"{HOST}:{server.port}", "127.0.0.1")) as fetcher,
    ):
        for url in (f"http://{HOST}:{server.port}/", f"http://127.1:{server.port}/"):
            assert await fetcher.fetch(url, kind="image", param=PARAM) == BYTES
        for url in (f"http://other.test:{server.port}/", f"http://{HOST}:1/", f"http://a.{HOST}:{server.port}/"):
            with pytest.raises(MediaNotAllowed, match="--allowed-media-domains"):
                await fetcher.fetch(url, kind="image", param=PARAM)


async def test_a_closed_network_is_not_asked() -> None:
    async with fetching(media_rules(HOST, allows_remote=False)) as fetcher, serving(always(response(BYTES))) as server:
        with pytest.raises(MediaNotAllowed, match="--no-remote-media"):
            await fetcher.fetch(f"http://{HOST}:{server.port}/", kind="image", param=PARAM)
    assert server.num_connections == 0


@pytest.mark.parametrize("location", ["/b.png", "b.png", "?b", "//media.test:{port}/b", "http://MEDIA.test:{port}/b"])
@pytest.mark.parametrize("status", ["301 M", "302 F", "303 S", "307 T", "308 P"])
async def test_redirects_are_followed(location: str, status: str) -> None:
    assert await fetch_from(redirecting(location, status)) == BYTES


@pytest.mark.parametrize(
    "location", ["http://127.0.0.1:{port}/b", "http://other.test:{port}/b", "http://media.test.evil/"]
)
async def test_a_redirect_to_a_host_that_is_not_allowed_is_refused(location: str) -> None:
    refused = await refusal(redirecting(location))
    assert isinstance(refused, MediaNotAllowed)
    assert "redirects" in refused.message


async def test_a_redirect_to_a_private_address_is_refused() -> None:
    """The first host is public, as far as the resolver tells; its connection is that of the test."""

    async def resolve(host: str, port: int) -> list[str]:
        return ["8.8.8.8"] if host == HOST else ["10.0.0.1"]

    async with serving(redirecting("http://inner.test/b")) as server:
        fetcher = Fetcher(media_rules(), resolve, ssl.create_default_context())
        _connect_all_to(fetcher, server)
        with pytest.raises(MediaNotAllowed, match="not public"):
            await fetcher.fetch(f"http://{HOST}/a.png", kind="image", param=PARAM)
        assert len(server.asked) == 1
        await fetcher.aclose()


def _connect_all_to(fetcher: Fetcher, server: LoopbackServer) -> None:
    checked = fetcher._pool._network_backend
    assert isinstance(checked, CheckedNetwork)
    checked._network = LeadingTo(server)


class LeadingTo(httpcore.AsyncNetworkBackend):
    """In the network's place: every address is that of a server on loopback."""

    def __init__(self, server: LoopbackServer) -> None:
        self.port = server.port

    async def connect_tcp(self, host: str, port: int, timeout=None, local_address=None, socket_options=None):
        return await CheckedNetwork(to_loopback, public_only=False).connect_tcp("127.0.0.1", self.port)


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "ftp://media.test/",
        "data:,x",
        "http://u:p@media.test/",
        "http://[::1%lo]/",
        "http://",
        "http://a:b",
    ],
)
async def test_a_redirect_to_anything_but_a_plain_url_is_refused(location: str) -> None:
    assert isinstance(await refusal(redirecting(location)), MediaFetchFailed)


async def test_three_redirects_are_followed_and_a_loop_ends() -> None:
    numbers = itertools.count(1)

    async def three(asked: Asked, writer: asyncio.StreamWriter) -> None:
        number = next(numbers)
        writer.write(response(BYTES) if number == 4 else response(b"", status="302 F", location=f"/{number}"))

    assert await fetch_from(three) == BYTES
    refused = await refusal(always(response(b"", status="302 F", location="/a.png")))
    assert "more than 3 redirects" in refused.message


async def test_a_caller_who_gives_up_releases_the_connection_and_the_turn() -> None:
    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await (silent if asked.target == "/silent" else always(response(BYTES)))(asked, writer)

    async with fetching(media_rules(HOST)) as fetcher, serving(answer) as server:
        url = f"http://{HOST}:{server.port}"
        callers = [
            asyncio.create_task(fetcher.fetch(f"{url}/silent", kind="image", param=PARAM))
            for _ in range(MOST_FETCHES_OF_ONE_HOST + 5)
        ]
        while len(server.asked) < MOST_FETCHES_OF_ONE_HOST:
            await asyncio.sleep(0.002)
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        await server.until_closed()
        assert await fetcher.fetch(f"{url}/there", kind="image", param=PARAM) == BYTES


async def test_a_hundred_fetches_of_one_host_hold_its_limit_and_all_arrive() -> None:
    asking, most = 0, 0
    all_turns_taken = asyncio.Event()

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        nonlocal asking, most
        asking += 1
        most = max(most, asking)
        if asking == MOST_FETCHES_OF_ONE_HOST:
            all_turns_taken.set()
        await all_turns_taken.wait()
        await asyncio.sleep(0)
        asking -= 1
        writer.write(response(asked.target.encode()))

    async with fetching(media_rules(HOST)) as fetcher, serving(answer) as server:
        urls = [f"http://{HOST}:{server.port}/{i}" for i in range(100)]
        found = await asyncio.gather(*(fetcher.fetch(url, kind="image", param=PARAM) for url in urls))
    assert found == [f"/{i}".encode() for i in range(100)]
    assert most == server.num_connections == MOST_FETCHES_OF_ONE_HOST


async def test_waiting_for_a_turn_does_not_count_as_fetching(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    get_within = Fetcher._get_within

    async def watched(fetcher: Fetcher, seconds: float, *rest) -> bytes | Redirect:
        given.append(seconds)
        return await get_within(fetcher, seconds, *rest)

    monkeypatch.setattr(Fetcher, "_get_within", watched)
    rules = media_rules(HOST)
    async with fetching(rules) as fetcher, serving(always(response(BYTES))) as server:
        async with contextlib.AsyncExitStack() as turns:
            for _ in range(MOST_FETCHES_OF_ONE_HOST):
                await turns.enter_async_context(fetcher._turns.take(HOST))
            url = f"http://{HOST}:{server.port}/"
            waiting = asyncio.create_task(fetcher.fetch(url, kind="image", param=PARAM))
            await asyncio.wait([waiting], timeout=0.05)
            assert not waiting.done()
        assert await waiting == BYTES
    assert given == [rules.timeout_seconds]
