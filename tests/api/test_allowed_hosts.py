from __future__ import annotations

import contextlib
from collections.abc import Callable

import httpx
import pytest

from embedway.api.allowed_hosts import hosts_to_allow, name_of

Connect = Callable[..., contextlib.AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.mark.parametrize(
    ("settings", "host", "status"),
    [
        ({}, "localhost", 200),
        ({}, "LOCALHOST.:30000", 200),
        ({}, "127.0.0.1:1", 200),
        ({}, "[::1]:30000", 200),
        ({}, "rebound.example", 421),
        ({}, "localhost.rebound.example:30000", 421),
        ({}, "127.0.0.1.rebound.example", 421),
        ({}, "", 421),
        ({"host": "127.0.0.2"}, "127.0.0.2:5", 200),
        ({"host": "0.0.0.0"}, "any.example", 200),
        ({"allowed_hosts": ["Api.example"]}, "api.example:443", 200),
        ({"allowed_hosts": ["api.example"]}, "localhost", 421),
        ({"allowed_hosts": ["api.example"], "host": "0.0.0.0"}, "other.example", 421),
        ({"allowed_hosts": ["*.example"]}, "a.b.example", 200),
        ({"allowed_hosts": ["*.example"]}, "badexample", 421),
        ({"allowed_hosts": ["*.Example:8080"]}, "a.example:1", 200),
        ({"allowed_hosts": ["*"]}, "rebound.example", 200),
        ({"allowed_hosts": ["::1"]}, "[::1]:30000", 200),
        ({"allowed_hosts": ["::1"]}, "", 421),
        ({"allowed_hosts": ["2001:DB8::7"]}, "[2001:db8::7]", 200),
    ],
)
async def test_a_name_that_is_not_the_server_s_is_refused(
    connect: Connect, settings: dict[str, object], host: str, status: int
) -> None:
    async with connect(with_engine=False, **settings) as client:
        response = await client.get("/livez", headers={"Host": host})
        assert response.status_code == status
        if status == 421:
            assert response.json()["error"]["code"] == "host_not_allowed"
            assert "--allowed-hosts" in response.json()["error"]["message"]


async def test_a_page_s_request_that_needs_no_leave_of_cors_is_refused(connect: Connect) -> None:
    """A browser sends these types to any origin without asking, and would have the server work for any page."""
    body = '{"model": "sentence-transformers/all-MiniLM-L6-v2", "input": "a"}'
    async with connect() as client:
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a"):
            headers = {"Content-Type": kind, "Origin": "https://a.example"}
            for path in ("/v1/embeddings", "/encode", "/tokenize", "/detokenize"):
                response = await client.post(path, content=body, headers=headers)
                assert response.status_code == 415
                assert "access-control-allow-origin" not in response.headers


def test_names_are_compared_without_port_brackets_and_case() -> None:
    hosts = {"A.example.": "a.example", "a:1": "a", "[::1]:5": "::1", "[::1": "::1", ":80": "", "": ""}
    assert [name_of(host) for host in hosts] == list(hosts.values())


def test_an_ipv6_loopback_is_one_too() -> None:
    assert "[::1]:30000" in (hosts_to_allow([], "::1") or ())
    assert hosts_to_allow([], "::") is None
    assert hosts_to_allow([], "embedway.internal") is None
