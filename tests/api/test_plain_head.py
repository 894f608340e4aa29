"""What is read as a plain head is what the parser reads in it, and whatever is doubtful is left to the parser."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from embedway.api.body_limit import SMALL_BODY
from embedway.api.http_limits import MAX_HEADERS, check_head
from embedway.api.plain_head import LONGEST_HEAD, plain_head

START = b"POST /v1/embeddings HTTP/1.1\r\n"
HOST = b"Host: localhost\r\n"


class Reader:
    """What httptools calls."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.ends = 0

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.ends += 1


def head(*lines: bytes, start: bytes = START, host: bytes = HOST) -> bytes:
    return start + host + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


lines = st.one_of(
    st.sampled_from(
        [
            b"Content-Length: 2",
            b"Content-Length:2",
            b"content-length:  2",
            b"Content-Length: 2 ",
            b"Content-Length: +2",
            b"Content-Length: 0x2",
            b"Content-Length: 2, 2",
            b"Content-Length : 2",
            b"Content-Length: 002",
            b" Content-Length: 2",
            b"Transfer-Encoding: chunked",
            b"Connection: close",
            b"Connection: keep-alive",
            b"Upgrade: h2c",
            b"Expect: 100-continue",
            b"Host: another",
            b"Content-Type: application/json",
            b"X-Request-Id:",
            b": nameless",
            b"X:\ta\tb",
            b"X: a\rb",
            b"X: a\nb",
            b"X: a\x00b",
            b"X: \xff",
            b"no colon",
        ]
    ),
    st.builds(lambda name, value: name + b": " + value, st.binary(max_size=6), st.binary(max_size=12)),
)


@given(
    start=st.sampled_from(
        [START] * 6 + [b"POST /encode HTTP/1.1\r\n", b"GET /encode HTTP/1.1\r\n", b"POST /encode HTTP/1.0\r\n", b"\r\n"]
    ),
    lines=st.lists(lines, max_size=6),
    ending=st.sampled_from([b"Content-Length: 2\r\n\r\n", b"\r\n", b"\n\n", b""]),
)
@example(start=START, lines=[b"Content-Length: 2"], ending=b"\r\n")
@example(start=START, lines=[b"X:  a\tb", b"Connection: keep-alive"], ending=b"Content-Length: 2\r\n\r\n")
def test_what_is_taken_is_read_as_the_parser_reads_it(start: bytes, lines: list[bytes], ending: bytes) -> None:
    data = start + HOST + b"".join(line + b"\r\n" for line in lines) + ending
    plain = plain_head(data + b"{}")
    if plain is None:
        return
    reader = Reader()
    parser = httptools.HttpRequestParser(reader)
    parser.feed_data(data + b"{}")
    check_head(parser.get_http_version(), reader.url, reader.headers)
    assert (parser.get_method(), reader.url) == (b"POST", plain.path.encode())
    assert list(plain.headers) == reader.headers
    assert (plain.length, plain.size) == (len(data), len(reader.body)) == (len(data), 2)
    assert parser.should_keep_alive()
    assert not parser.should_upgrade()
    assert reader.ends == 1


def test_its_parts() -> None:
    data = head(b"Content-Length: 7", b"X-Twice: 1", b"x-twice: 2")
    plain = plain_head(data)
    assert plain is not None
    assert (plain.path, plain.length, plain.size) == ("/v1/embeddings", len(data), 7)
    assert plain.text(b"x-twice") == "1"
    assert plain.text(b"x-none") is None


LENGTH = b"Content-Length: 2"


@pytest.mark.parametrize(
    "data",
    [
        head(),
        head(b"Content-Length: %d" % (SMALL_BODY + 1)),
        head(b"Content-Length: " + b"0" * 20 + b"2"),
        head(LENGTH, LENGTH),
        head(LENGTH, host=b""),
        head(LENGTH, host=HOST * 2),
        head(LENGTH, b"Transfer-Encoding: chunked"),
        head(LENGTH, b"Connection: close"),
        head(LENGTH, b"Origin: http://elsewhere"),
        head(LENGTH, b"Expect: 100-continue"),
        head(LENGTH, b"X: a", b" folded"),
        head(LENGTH, *[b"X: a"] * MAX_HEADERS),
        head(LENGTH, b"X: " + b"a" * LONGEST_HEAD),
        head(LENGTH, start=b"POST /v1/embeddings?a HTTP/1.1\r\n"),
        head(LENGTH, start=b"POST /v1/embeddings HTTP/1.0\r\n"),
        head(LENGTH, start=b"POST  /v1/embeddings HTTP/1.1\r\n"),
        head(LENGTH)[:-1],
        head(LENGTH).replace(b"\r", b""),
        b"",
    ],
)
def test_what_is_the_parsers(data: bytes) -> None:
    assert plain_head(head(LENGTH) + b"{}") is not None
    assert plain_head(data + b"{}") is None
