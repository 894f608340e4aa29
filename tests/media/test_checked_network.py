from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import httpcore
import pytest

from embedway.media.checked_network import CheckedNetwork, ForbiddenAddress, UnknownHost, system_resolver
from loopback_server import always, response, serving


class Names:
    """A resolver that knows what a test gives it: one answer after the other, the last for good."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.num_lookups = 0

    async def __call__(self, host: str, port: int) -> list[str]:
        self.num_lookups += 1
        return list(self.answers[min(self.num_lookups, len(self.answers)) - 1])


class Recording(httpcore.AsyncNetworkBackend):
    """In the network's place: remembers what would be connected to."""

    def __init__(self, failing: Sequence[str] = ()) -> None:
        self.asked: list[str] = []
        self.failing = failing

    async def connect_tcp(self, host: str, port: int, timeout=None, local_address=None, socket_options=None):
        self.asked.append(host)
        if host in self.failing:
            raise httpcore.ConnectError
        return httpcore.AsyncMockStream([])


def network(names: Names, *, public_only: bool = True, failing: Sequence[str] = ()) -> tuple[CheckedNetwork, Recording]:
    checked = CheckedNetwork(names, public_only=public_only)
    checked._network = recording = Recording(failing)
    return checked, recording


async def test_only_the_checked_address_is_connected_to() -> None:
    """The second answer is that of a name server that rebinds the name."""
    names = Names(["8.8.8.8"], ["127.0.0.1"])
    checked, recording = network(names)
    await checked.connect_tcp("a.example", 80)
    assert recording.asked == ["8.8.8.8"]
    assert names.num_lookups == 1
    with pytest.raises(ForbiddenAddress):
        await checked.connect_tcp("a.example", 80)
    assert recording.asked == ["8.8.8.8"]


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["8.8.8.8", "10.0.0.1"],
        ["::1", "8.8.8.8"],
        ["2001:4860::1", "169.254.169.254"],
        ["fe80::1%2"],
        ["::ffff:10.0.0.1"],
        ["not an address"],
    ],
)
async def test_one_bad_address_refuses_the_name(addresses: list[str]) -> None:
    checked, recording = network(Names(addresses))
    with pytest.raises(ForbiddenAddress):
        await checked.connect_tcp("a.example", 80)
    assert recording.asked == []


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "169.254.169.254", "::ffff:7f00:1"])
async def test_an_address_is_checked_without_a_lookup(host: str) -> None:
    names = Names(["8.8.8.8"])
    checked, recording = network(names)
    with pytest.raises(ForbiddenAddress):
        await checked.connect_tcp(host, 80)
    assert (names.num_lookups, recording.asked) == (0, [])


async def test_hosts_that_the_operator_named_may_have_any_address() -> None:
    checked, recording = network(Names(["10.0.0.1"]), public_only=False)
    await checked.connect_tcp("a.internal", 80)
    await checked.connect_tcp("::1", 80)
    assert recording.asked == ["10.0.0.1", "::1"]


async def test_the_next_address_is_tried_where_one_fails() -> None:
    checked, recording = network(Names(["8.8.8.8", "1.1.1.1", "9.9.9.9"]), failing=["8.8.8.8"])
    await checked.connect_tcp("a.example", 80)
    assert recording.asked == ["8.8.8.8", "1.1.1.1"]


async def test_the_last_address_s_failure_is_told() -> None:
    checked, _ = network(Names(["8.8.8.8", "1.1.1.1"]), failing=["8.8.8.8", "1.1.1.1"])
    with pytest.raises(httpcore.ConnectError):
        await checked.connect_tcp("a.example", 80)


async def test_a_name_without_an_address_is_unknown() -> None:
    checked, _ = network(Names([]))
    with pytest.raises(UnknownHost):
        await checked.connect_tcp("a.example", 80)


@pytest.mark.parametrize("error", [OSError("no"), UnicodeError("label too long")])
async def test_a_failed_lookup_is_an_unknown_host(error: Exception) -> None:
    async def fail(host: str, port: int) -> list[str]:
        raise error

    with pytest.raises(UnknownHost):
        await CheckedNetwork(fail, public_only=True).connect_tcp("a.example", 80)


async def test_the_system_s_resolver_finds_this_machine_and_it_is_refused() -> None:
    with ThreadPoolExecutor(1) as threads:
        resolve = system_resolver(threads)
        found = await resolve("localhost", 80)
        assert set(found) <= {"127.0.0.1", "::1"}
        assert len(found) == len(set(found)) > 0
        with pytest.raises(ForbiddenAddress):
            await CheckedNetwork(resolve, public_only=True).connect_tcp("localhost", 80)


async def test_a_real_connection_is_made() -> None:
    async with serving(always(response(b"hello"))) as server:
        stream = await CheckedNetwork(Names(["127.0.0.1"]), public_only=False).connect_tcp("a.test", server.port)
        await stream.write(b"GET / HTTP/1.1\r\n\r\n")
        assert (await asyncio.wait_for(stream.read(100), 10)).startswith(b"HTTP/1.1 200")
        await stream.aclose()
