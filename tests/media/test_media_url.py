from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedway.media.media_url import InvalidUrl, parse_url


def test_a_url_is_taken_apart() -> None:
    url = parse_url("HTTP://Example.COM.:8080/a b/%20?q=é&r=%2f#part")
    assert (url.scheme, url.host, url.port, url.authority) == ("http", "example.com", 8080, "example.com:8080")
    assert url.target == b"/a%20b/%20?q=%C3%A9&r=%2f"


def test_default_ports_are_left_out_of_the_host_header() -> None:
    assert parse_url("http://a").authority == "a"
    assert parse_url("https://a:443/").authority == "a"
    assert parse_url("https://a:80/").authority == "a:80"
    assert parse_url("http://[0::1]:81/").authority == "[::1]:81"
    assert parse_url("http://a?x").target == b"/?x"


@pytest.mark.parametrize("url", ["http://2130706433/", "http://0x7f.1/", "http://127.1", "http://127。0。0。1/"])
def test_odd_spellings_of_addresses_are_read(url: str) -> None:
    assert parse_url(url).host == "127.0.0.1"


@pytest.mark.parametrize(
    "text",
    [
        *("http:///x", "http:x", "http://", "ftp://a/", "//a/", "a", "", "javascript:alert(1)", "file:///etc/passwd"),
        # pragma: allowlist nextline secret
        *("http://user@a/", "http://user:secret@a/", "http://a\\@b/", "http://0177.0.0.1/", "http://%31%32%37.0.0.1/"),
        *("http://a b/", "http://a\t/", "http://a/\r\nX: y", "http://a:0/", "http://a:65536/", "http://a:x/"),
        *("http://[::1%25eth0]/", "http://[fe80::1%eth0]/", "http://[1.2.3.4]/", "http://a..b/", "http://\ud800/"),
        *("http://a/\ud800", "http://" + "a" * 70_000, "http://a/" + "b" * 70_000),
    ],
)
def test_what_is_no_plain_http_url_is_refused(text: str) -> None:
    with pytest.raises(InvalidUrl):
        parse_url(text)


def test_redirects_may_be_relative() -> None:
    url = parse_url("https://a.example/b/c?d")
    assert url.join("/x").target == b"/x"
    assert url.join("x").target == b"/b/x"
    assert url.join("//other.example/x").host == "other.example"
    assert url.join("http://127.1/").host == "127.0.0.1"
    with pytest.raises(InvalidUrl):
        url.join("file:///etc/passwd")


@given(st.text() | st.text().map("http://a/".__add__) | st.text().map("http://".__add__))
def test_any_text_is_a_url_or_refused(text: str) -> None:
    for parse in (parse_url, parse_url("http://a.example/b").join):
        try:
            url = parse(text)
        except InvalidUrl:
            continue
        assert url.target.isascii()
        assert not set(url.target) & set(b" \r\n\t")
