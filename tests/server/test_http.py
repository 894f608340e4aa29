"""HTTP as broken, slow and hostile clients speak it, over raw sockets to a real server."""

from __future__ import annotations

import contextlib
import json
import re
import select
import socket
import struct
import time
from collections.abc import Generator, Iterator

import httpx
import pytest

from running_server import RunningServer

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
HANG_SECONDS = 30
MAX_CONNECTIONS = 12


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """One that soon loses patience."""
    flags = ["--receive-timeout", "0.4", "--send-timeout", "0.4", "--max-connections", str(MAX_CONNECTIONS)]
    with RunningServer(*flags, "--max-body-mb", "1", "--keep-alive-timeout", "1") as server:
        yield server


@contextlib.contextmanager
def connected(server: RunningServer) -> Generator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=HANG_SECONDS) as connection:
        yield connection


def read_to_end(connection: socket.socket) -> bytes:
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(2**16):
            answer += piece
    return answer


def metric(server: RunningServer, line: str) -> float:
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    return sum(float(given.rpartition(" ")[2]) for given in lines if given.startswith(line))


def until_metric(server: RunningServer, line: str, least: float) -> None:
    give_up = time.monotonic() + HANG_SECONDS
    while metric(server, line) < least:
        assert time.monotonic() < give_up, metric(server, line)


def exchange(server: RunningServer, *pieces: bytes) -> list[tuple[int, bytes]]:
    """Statuses and bodies of all that is answered before the server closes the connection."""
    with connected(server) as connection:
        for piece in pieces:
            connection.sendall(piece)
        return split_answers(read_to_end(connection))


def split_answers(raw: bytes) -> list[tuple[int, bytes]]:
    answers = []
    while raw:
        head, _, rest = raw.partition(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", head)[1])  # ty: ignore[not-subscriptable]
        answers.append((int(head.split()[1]), rest[:length]))
        raw = rest[length:]
    return answers


def embed(text: str | list[str], *headers: bytes) -> bytes:
    body = json.dumps({"model": MODEL, "input": text, "encoding_format": "base64"}).encode()
    head = [b"POST /v1/embeddings HTTP/1.1", b"Host: 127.0.0.1", b"Content-Type: application/json", *headers]
    return b"\r\n".join([*head, b"Content-Length: %d" % len(body), b"", body])


def post(*lines: bytes, version: bytes = b"1.1", body: bytes = b"") -> bytes:
    return b"\r\n".join([b"POST /v1/embeddings HTTP/" + version, b"Host: a", *lines, b"", b""]) + body


CHUNKED = b"Transfer-Encoding: chunked"
HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: localhost\r\n\r\n"
"""41 bytes: what a server that reads otherwise than its proxy would take for a second request"""


@pytest.mark.parametrize(
    "raw",
    {
        "a length and chunks": post(b"Content-Length: 4", CHUNKED, body=b"0\r\n\r\n" + HIDDEN),
        "chunks and a length": post(CHUNKED, b"Content-Length: 4", body=b"0\r\n\r\n" + HIDDEN),
        "two lengths": post(b"Content-Length: 0", b"Content-Length: 41", body=HIDDEN),
        "a list of lengths": post(b"Content-Length: 0, 41", body=HIDDEN),
        "a signed length": post(b"Content-Length: +0", body=HIDDEN),
        "a length without end": post(b"Content-Length: " + b"9" * 40, body=HIDDEN),
        "a length of 5000 digits": post(b"Content-Length: " + b"41".zfill(5000), body=HIDDEN),
        "a folded header": post(b"X: a", b" Content-Length: 41", body=HIDDEN),
        "lines without CR": HIDDEN.replace(b"\r\n", b"\n"),
        "one line without CR": post(b"A: b\nContent-Length: 41", body=HIDDEN),
        "a CR alone": post(b"A: b\rContent-Length: 41", body=HIDDEN),
        "a space before the colon": post(b"Content-Length : 41", body=HIDDEN),
        "a space before the first header": HIDDEN.replace(b"Host", b" Host"),
        "a NUL in a name": post(b"Content-Length\x00: 41", body=HIDDEN),
        "a NUL in a value": post(b"A: \x00", body=HIDDEN),
        "a control character": post(b"A: \x01", body=HIDDEN),
        "a name beyond ASCII": post(b"\xffontent-Length: 41", body=HIDDEN),
        "no name": post(b": a", body=HIDDEN),
        "another coding": post(b"Transfer-Encoding: gzip", body=HIDDEN),
        "two codings": post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n" + HIDDEN),
        "two transfer encodings": post(CHUNKED, b"Transfer-Encoding: identity", body=b"0\r\n\r\n" + HIDDEN),
        "chunks that are not last": post(b"Transfer-Encoding: chunked, gzip", body=b"0\r\n\r\n" + HIDDEN),
        "nearly chunks": post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n" + HIDDEN),
        "chunks behind a tab": post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n" + HIDDEN),
        "chunks in HTTP/1.0": post(CHUNKED, version=b"1.0", body=b"0\r\n\r\n" + HIDDEN),
        "a hexadecimal prefix": post(CHUNKED, body=b"0x0\r\n\r\n" + HIDDEN),
        "a negative chunk": post(CHUNKED, body=b"-1\r\n\r\n" + HIDDEN),
        "an enormous chunk": post(CHUNKED, body=b"f" * 17 + b"\r\n\r\n" + HIDDEN),
        "a chunk longer than it says": post(CHUNKED, body=b"1\r\n{}0\r\n\r\n" + HIDDEN),
        "a space behind a chunk's size": post(CHUNKED, body=b"0 \r\n\r\n" + HIDDEN),
        "chunks without CR": post(CHUNKED, body=b"0\n\n" + HIDDEN),
        "an extension without CR": post(CHUNKED, body=b"0;a\n\r\n" + HIDDEN),
        "a length in a trailer": post(CHUNKED, body=b"0\r\nContent-Length: 41\r\n\r\n" + HIDDEN),
        "no host": b"GET /livez HTTP/1.1\r\n\r\n" + HIDDEN,
        "two hosts": b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + HIDDEN,
        "HTTP/0.9": b"GET /livez\r\n\r\n" + HIDDEN,
        "HTTP/2.0": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "a URL with a space": b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n" + HIDDEN,
        "a URL beyond ASCII": b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n" + HIDDEN,
        "a URL with a NUL": b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n" + HIDDEN,
        "a tunnel": b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n" + HIDDEN,
        "a method in small letters": HIDDEN.replace(b"GET", b"get"),
        "too many at once": HIDDEN.replace(b"hidden", b"livez") * 200,
    }.items(),
    ids=lambda case: case[0],
)
def test_what_two_servers_might_read_differently_ends_the_connection(
    server: RunningServer, raw: tuple[str, bytes]
) -> None:
    *before, (status, body) = exchange(server, raw[1])
    assert status == 400
    assert json.loads(body)["error"]["code"] == "malformed_http"
    assert b"/hidden" not in b"".join(body for _, body in before)


def test_a_chunk_s_extension_and_a_trailer_are_nothing_to_the_request(server: RunningServer) -> None:
    body = embed("a").partition(b"\r\n\r\n")[2]
    chunks = b"%x;name=value\r\n%s\r\n0\r\nX-Request-Id: trailer\r\nHost: evil\r\n\r\n" % (len(body), body)
    head = [b"Host: 127.0.0.1", b"Content-Type: application/json", CHUNKED, b"X-Request-Id: head", b"", chunks]
    with connected(server) as connection:
        connection.sendall(b"\r\n".join([b"POST /v1/embeddings HTTP/1.1", *head]))
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        answer = read_to_end(connection)
    assert [status for status, _ in split_answers(answer)] == [200, 200]
    assert b"x-request-id: head\r\n" in answer


def test_requests_that_come_at_once_are_answered_in_their_order(server: RunningServer) -> None:
    livez = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    last = embed("two", b"Connection: close")
    answers = exchange(server, embed("one " * 200) + livez + embed("two") + livez + embed("three") + last)
    assert [status for status, _ in answers] == [200] * 6
    one, alive, two, alive_too, three, two_again = [json.loads(body) for _, body in answers]
    assert alive == alive_too == {"status": "alive"}
    vectors = [answer["data"][0]["embedding"] for answer in (one, two, three, two_again)]
    assert len(set(vectors)) == 3
    assert vectors[1] == vectors[3]
    assert one["usage"]["total_tokens"] > 200


def test_what_is_no_request_is_answered_behind_those_before_it(server: RunningServer) -> None:
    answers = exchange(server, embed("one"), embed("two") + b"NONSENSE\r\n\r\n")
    assert [status for status, _ in answers] == [200, 200, 400]


def test_the_body_is_asked_for_where_the_client_waits_for_that(server: RunningServer) -> None:
    head, _, body = embed("a", b"Expect: 100-continue", b"Connection: close").partition(b"\r\n\r\n")
    with connected(server) as connection:
        connection.sendall(head + b"\r\n\r\n")
        go_on = b"HTTP/1.1 100 Continue\r\n\r\n"
        assert connection.recv(len(go_on), socket.MSG_WAITALL) == go_on
        connection.sendall(body)
        assert [status for status, _ in split_answers(read_to_end(connection))] == [200]


def test_a_body_over_the_limit_is_not_asked_for(server: RunningServer) -> None:
    with connected(server) as connection:
        connection.sendall(
            post(b"Content-Length: 2000000", b"Expect: 100-continue").replace(b": a\r", b": localhost\r")
        )
        assert connection.recv(12) == b"HTTP/1.1 413"


def test_a_head_is_as_an_answer_without_its_body(server: RunningServer) -> None:
    with connected(server) as connection:
        connection.sendall(b"HEAD /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        head, _, body = read_to_end(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"content-length: 18" in head
    assert body == b""


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"http://localhost/livez", 200),
        (b"http://localhost", 400),
        (b"//localhost/livez", 404),
        (b"*", 404),
        (b"/livez%00", 404),
        (b"/%2e%2e/%2e%2e/etc/passwd", 404),
        (b"/" + b"a" * 60_000, 404),
        (b"/" + b"a" * 70_000, 431),
        (b"/livez?" + b"a" * 70_000, 431),
    ],
    ids=lambda value: value[:30] if isinstance(value, bytes) else None,
)
def test_any_target_gets_one_answer(server: RunningServer, target: bytes, status: int) -> None:
    raw = b"GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % target
    assert [answer[0] for answer in exchange(server, raw)] == [status]


def test_an_upgrade_that_is_offered_is_passed_over(server: RunningServer) -> None:
    offer = embed("one", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk")
    answers = exchange(server, offer + embed("two"), embed("three", b"Connection: close"))
    assert [status for status, _ in answers] == [200] * 3


@pytest.mark.parametrize(
    "raw",
    {
        "long": b"GET /livez HTTP/1.1\r\nHost: a\r\nA: " + b"a" * 100_000 + b"\r\n\r\n",
        "many": b"GET /livez HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 1000 + b"\r\n",
        "no end": b"GET /livez HTTP/1.1\r\nHost: a\r\nA: " + b"a" * 1_000_000,
        "blank lines": b"\r\n" * 500_000,
        "a chunk's extension": post(CHUNKED, body=b"1;" + b"a" * 1_000_000),
        "a trailer": post(CHUNKED, body=b"0\r\nA: " + b"a" * 1_000_000),
    }.items(),
    ids=lambda case: case[0],
)
def test_a_head_without_end_is_not_collected(server: RunningServer, raw: tuple[str, bytes]) -> None:
    with connected(server) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(raw[1])
        [(status, body)] = split_answers(read_to_end(connection))
    assert status in (415, 421, 431), body


@pytest.mark.parametrize(
    "raw",
    {
        "half a head": b"GET /livez HTTP/1.1\r\nHost:",
        "half a body": embed("a")[:-5],
        "half a chunk": embed("a").partition(b"Content-Length")[0] + CHUNKED + b"\r\n\r\n5\r\n{",
        "the next one's head": embed("a") + b"GET /livez HTTP/1.1\r\nHost:",
    }.items(),
    ids=lambda case: case[0],
)
def test_a_request_that_does_not_go_on_is_ended(server: RunningServer, raw: tuple[str, bytes]) -> None:
    *before, (status, body) = exchange(server, raw[1])
    assert status == 408
    assert json.loads(body)["error"]["code"] == "request_timed_out"
    assert [status for status, _ in before] == [200] * raw[0].startswith("the next")


def test_a_head_that_drips_is_ended(server: RunningServer) -> None:
    """Each byte in time does not make a request of it."""
    with connected(server) as connection:
        connection.sendall(b"GET /")
        connection.settimeout(0.05)
        answer = None
        while answer is None:
            with contextlib.suppress(TimeoutError):
                answer = connection.recv(2**16)
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"a")
    assert answer.startswith(b"HTTP/1.1 408")


def test_a_connection_that_asks_nothing_is_closed(server: RunningServer) -> None:
    with connected(server) as connection:
        assert read_to_end(connection) == b""


def test_a_connection_too_many_gets_a_503_and_room_comes_back(server: RunningServer) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS):
            stack.enter_context(connected(server)).sendall(embed("a"))
        [(status, body)] = exchange(server)
        assert status == 503
        assert json.loads(body)["error"]["code"] == "too_many_connections"
    assert httpx.get(f"{server.url}/livez").status_code == 200


def test_who_does_not_read_its_answer_is_cut_off(server: RunningServer) -> None:
    """Answers of 16 MB, far more than the kernel takes for a client."""
    body = json.dumps({"model": MODEL, "input": ["a"] * 2048}).encode()
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    request = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(HANG_SECONDS)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(request)
        assert connection.recv(12, socket.MSG_WAITALL) == b"HTTP/1.1 200"
        reset = select.poll()
        reset.register(connection, 0)  # wakes for an error only, without a byte being read
        assert reset.poll(HANG_SECONDS * 1000) == [(connection.fileno(), select.POLLERR | select.POLLHUP)]


def test_a_client_that_ends_its_side_has_gone(server: RunningServer) -> None:
    """It cannot be told from one that has closed its connection, whose request is to be dropped."""
    with connected(server) as connection:
        connection.sendall(embed([f"text {i} " * 80 for i in range(500)], b"Connection: close"))
        connection.shutdown(socket.SHUT_WR)
        assert read_to_end(connection) == b""
    assert httpx.get(f"{server.url}/livez").status_code == 200


def test_a_client_that_goes_takes_all_its_requests_along(server: RunningServer) -> None:
    """Those in front of the last one, too."""
    ended = 'embedway_requests_ended_total{cause="disconnect"}'
    before = metric(server, ended)
    with connected(server) as connection:
        connection.sendall(embed([f"text {i} " * 80 for i in range(500)]) + embed("b") + embed("c"))
        until_metric(server, "embedway_engine_queued_tokens", 1)
    until_metric(server, ended, before + 1)


@pytest.mark.parametrize("early", [b"\r\n", b"the rest of a body"], ids=["empty lines", "a body's rest"])
def test_what_is_no_request_does_not_keep_an_idle_connection(server: RunningServer, early: bytes) -> None:
    """Keep-alive is for 1 second here."""
    refused = b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(early)
    livez = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connected(server) as connection:
        connection.sendall(livez if early == b"\r\n" else refused)
        connection.recv(4096)
        connection.sendall(early)
        assert read_to_end(connection) == b""


def test_a_client_that_still_sends_can_read_why_it_was_refused(server: RunningServer) -> None:
    """Without lingering it would be reset as it sends."""
    head = b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 900000\r\n\r\n"
    with connected(server) as connection:
        connection.sendall(head)
        status = connection.recv(12, socket.MSG_PEEK | socket.MSG_WAITALL)
        assert status == b"HTTP/1.1 404"
        for _ in range(9):
            connection.sendall(b"a" * 100_000)
        assert [status for status, _ in split_answers(read_to_end(connection))] == [404]


def test_a_reset_leaves_the_server_at_work(server: RunningServer) -> None:
    for raw in (b"", b"GET", embed("a")[:-5], embed("a")):
        with connected(server) as connection:
            connection.sendall(raw)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert httpx.get(f"{server.url}/livez").status_code == 200
