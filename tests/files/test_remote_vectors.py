"""Vectors from a server: asked in small requests, again where it was busy, and item by item where one is to blame."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from embedway.errors import InvalidSetting, NotMeasurable, ServerRefuses
from embedway.files import remote_vectors
from embedway.files.remote_vectors import MAX_ITEMS, RemoteOptions, RemoteVectors, requests_of
from embedway.load_test.target import read_target


class Server(ThreadingHTTPServer):
    """Answers with statuses that it was told, one after the other, and then with vectors: a text's length and its
    first letter. It blames texts that say so."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.statuses: list[tuple[int, dict[str, str]]] = []
        self.bodies: list[dict[str, object]] = []
        self.as_numbers = False
        self.extra_numbers = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def recorder(self) -> Server:
        assert isinstance(self.server, Server)
        return self.server

    def do_GET(self) -> None:
        self.answer(200, {"data": [{"id": "the-model"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.recorder.lock:
            self.recorder.bodies.append({**body, "key": self.headers["Authorization"]})
            status, headers = self.recorder.statuses.pop(0) if self.recorder.statuses else (200, {})
        if status != 200:
            self.answer(status, {"error": {"message": f"it says {status}"}}, headers)
        elif any("to blame" in text for text in body["input"]):
            self.answer(400, {"error": {"message": "one is to blame"}})
        else:
            self.answer(200, {"data": self.data(body["input"]), "usage": {"prompt_tokens": len(body["input"])}})

    def data(self, texts: list[str]) -> list[dict[str, object]]:
        """In another order than it was asked for."""
        more = [0] * self.recorder.extra_numbers
        vectors = [np.array([len(text), ord(text[0]), *more], np.float32) for text in texts]
        written = [v.tolist() if self.recorder.as_numbers else base64.b64encode(v.tobytes()).decode() for v in vectors]
        return [{"index": i, "embedding": vector} for i, vector in reversed(list(enumerate(written)))]

    def answer(self, status: int, content: object, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def vectors(server: Server) -> Iterator[RemoteVectors]:
    options = RemoteOptions(None, {"dimensions": 2}, concurrency=3)
    remote = RemoteVectors(read_target(server.url, "a-key"), options)
    yield remote
    remote.close()


TEXTS = [chr(97 + i % 26) * (1 + i % 9) for i in range(3 * MAX_ITEMS + 5)]


@pytest.mark.parametrize("as_numbers", [False, True])
def test_each_text_gets_its_own_vector(server: Server, vectors: RemoteVectors, as_numbers: bool) -> None:
    server.as_numbers = as_numbers
    embedded = vectors.embed(vectors.prepare(TEXTS))
    assert embedded.vectors.tolist() == [[len(text), ord(text[0])] for text in TEXTS]
    assert (embedded.faults, embedded.num_tokens) == ({}, len(TEXTS))
    assert len(server.bodies) == 4
    for body in server.bodies:
        assert (body["model"], body["dimensions"], body["key"]) == ("the-model", 2, "Bearer a-key")


def test_a_busy_server_is_asked_again_when_it_says(
    server: Server, vectors: RemoteVectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    really_sleep = remote_vectors.asyncio.sleep

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await really_sleep(0)

    monkeypatch.setattr(remote_vectors.asyncio, "sleep", sleep)
    server.statuses = [(429, {"Retry-After": "7"}), (503, {}), (500, {}), (429, {"Retry-After": "2"})]
    assert vectors.embed(["a text"]).vectors.tolist() == [[6, 97]]
    assert pauses == [7, 1, 2, 2]


def test_only_the_item_that_is_to_blame_has_no_vector(server: Server, vectors: RemoteVectors) -> None:
    texts = ["good", "to blame", "good, too"]
    embedded = vectors.embed(texts)
    assert embedded.faults == {1: "one is to blame"}
    assert embedded.vectors[[0, 2]].tolist() == [[4, 103], [9, 103]]


@pytest.mark.parametrize("status", [401, 404])
def test_a_server_that_says_no_to_all_ends_the_run(server: Server, vectors: RemoteVectors, status: int) -> None:
    server.statuses = [(status, {})]
    with pytest.raises(ServerRefuses, match=f"it says {status}"):
        vectors.embed(["a text"])


def test_a_server_that_fails_on_one_item_again_and_again_loses_it_only(
    server: Server, vectors: RemoteVectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_vectors, "FIRST_PAUSE", 0.001)
    server.statuses = [(500, {})] * 3
    assert vectors.embed(["a text"]).faults == {0: "it says 500"}


def test_patience_ends(server: Server, vectors: RemoteVectors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_vectors, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(remote_vectors, "PATIENCE_SECONDS", 0.01)
    server.statuses = [(503, {})] * 1000
    with pytest.raises(ServerRefuses, match=r"it says 503\. The same command goes on where this one ended"):
        vectors.embed(["a text"])


def test_what_is_no_answer_of_such_a_server_ends_the_run(
    server: Server, vectors: RemoteVectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Handler, "data", lambda handler, texts: [])
    with pytest.raises(ServerRefuses, match="0 vectors for 1 items"):
        vectors.embed(["a text"])


def test_nobody_listens() -> None:
    with pytest.raises((NotMeasurable, InvalidSetting), match=r"127\.0\.0\.1"):
        RemoteVectors(read_target("http://127.0.0.1:9", None), RemoteOptions(None, {}))


def test_requests_are_small() -> None:
    lengths = [len(numbers) for numbers in requests_of(["x" * 30_000] * 5 + ["y"] * 200)]
    assert lengths == [2, 2, 1 + 63, 64, 64, 9]
    assert [i for numbers in requests_of(TEXTS) for i in numbers] == list(range(len(TEXTS)))


def test_an_address_where_nobody_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_vectors, "FIRST_PATIENCE_SECONDS", 0.0)
    with socket.socket() as taken:  # bound, but not listening
        taken.bind(("127.0.0.1", 0))
        target = read_target(f"http://127.0.0.1:{taken.getsockname()[1]}", None)
        vectors = RemoteVectors(target, RemoteOptions("a-model", {}))
        with pytest.raises(ServerRefuses, match="cannot connect"):
            vectors.embed(["a text"])
        vectors.close()


def test_vectors_of_several_lengths_are_no_answer(server: Server) -> None:
    vectors = RemoteVectors(read_target(server.url, None), RemoteOptions("a-model", {}))
    vectors.embed(["a text"])
    server.extra_numbers = 1
    with pytest.raises(ServerRefuses, match="vectors of 2 numbers came before, and now one of 3"):
        vectors.embed(["another"])
    vectors.close()
