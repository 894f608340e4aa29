from __future__ import annotations

import pytest

from embedway.errors import InvalidSetting
from embedway.media.rules import AllowedDomain, read_allowed_domains
from media_fetching import media_rules


def allows(entry: str, host: str, port: int = 80) -> bool:
    return media_rules(entry).allows_host(host, port)


@pytest.mark.parametrize(
    ("entry", "read"),
    [
        ("Example.com", AllowedDomain("example.com")),
        (" example.com ", AllowedDomain("example.com")),
        ("example.com:8080", AllowedDomain("example.com", port=8080)),
        ("*.example.com", AllowedDomain("example.com", with_subdomains_only=True)),
        ("*.example.com:443", AllowedDomain("example.com", True, 443)),
        ("bücher.example", AllowedDomain("xn--bcher-kva.example")),
        ("127.0.0.1", AllowedDomain("127.0.0.1")),
        ("0x7f.1:81", AllowedDomain("127.0.0.1", port=81)),
        ("::1", AllowedDomain("::1")),
        ("[::1]", AllowedDomain("::1")),
        ("[0:0::1]:80", AllowedDomain("::1", port=80)),
        ("localhost", AllowedDomain("localhost")),
    ],
)
def test_an_entry_names_a_host_and_perhaps_a_port(entry: str, read: AllowedDomain) -> None:
    assert read_allowed_domains([entry]) == (read,)


@pytest.mark.parametrize(
    "entry",
    [
        *("", "*", "*.", "*.*.com", "a.*.com", "*a.com", "http://example.com", "example.com/path", "user@host", "a b"),
        *(
            "host:",
            "host:0",
            "host:65536",
            "host:http",
            "host:٨٠",
            ":80",
            "[::1",
            "[::1]:",
            "::1%eth0",
            "*.127.0.0.1",
            "*.::1",
        ),
    ],
)
def test_any_other_entry_stops_the_start(entry: str) -> None:
    with pytest.raises(InvalidSetting, match="--allowed-media-domains") as caught:
        read_allowed_domains(["good.example", entry])
    assert repr(entry) in str(caught.value)


def test_without_entries_every_host_may_be_asked() -> None:
    assert media_rules().allows_host("example.com", 1234)


def test_a_name_is_that_name_only() -> None:
    assert allows("example.com", "example.com", 443)
    for other in ("www.example.com", "example.com.evil.org", "badexample.com", "com"):
        assert not allows("example.com", other)


def test_a_star_stands_for_subdomains_only() -> None:
    assert allows("*.example.com", "a.example.com")
    assert allows("*.example.com", "a.b.example.com")
    for other in ("example.com", "badexample.com", "a.example.com.evil.org"):
        assert not allows("*.example.com", other)


def test_a_port_is_that_port_only_and_none_is_any() -> None:
    assert allows("example.com:8080", "example.com", 8080)
    assert not allows("example.com:8080", "example.com", 80)
    assert allows("example.com", "example.com", 8080)
