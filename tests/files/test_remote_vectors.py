"""Vectors from a server: asked in small requests, again where it was busy, and item by item where one is to blame."""

from __future__ import annotations

import base64
import gc
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from embedway.errors import ServerRefuses
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
        self.lock = threading.Lock()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that gave its request up is what some tests are about."""

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
        vectors = [np.array([len(text), ord(text[0])], np.float32) for text in texts]
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


def test_who_asks_for_more_than_the_patience_is_not_waited_for(server: Server, vectors: RemoteVectors) -> None:
    server.statuses = [(429, {"Retry-After": "3600"})]
    with pytest.raises(ServerRefuses, match=r"429: it says 429 \(it asks to wait for 3600 seconds\)"):
        vectors.embed(["a text"])


def test_what_is_no_answer_of_such_a_server_ends_the_run(
    server: Server, vectors: RemoteVectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Handler, "data", lambda handler, texts: [])
    with pytest.raises(ServerRefuses, match="0 vectors for 1 items"):
        vectors.embed(["a text"])


@pytest.mark.parametrize("model", [None, "its-name"])
def test_where_nobody_listens_the_run_ends_at_once(model: str | None) -> None:
    with pytest.raises(ServerRefuses, match=r"127\.0\.0\.1:9/v1/embeddings gives no vectors: cannot connect"):
        RemoteVectors(read_target("http://127.0.0.1:9", None), RemoteOptions(model, {}))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([{"index": 0, "embedding": [1, 2]}] * 2, "other numbers than the items"),
        ([{"index": -1 - i, "embedding": [1, 2]} for i in range(2)], "other numbers than the items"),
        ([{"embedding": [1, 2]}] * 2, "its answer has no 'index'"),
        ([{"index": i, "embedding": [1] * (2 + i)} for i in range(2)], "3 dimensions, and those before 2"),
        ([{"index": i, "embedding": []} for i in range(2)], "no list of numbers"),
        ([{"index": i, "embedding": [[1, 2]]} for i in range(2)], "no list of numbers"),
        ([{"index": i, "embedding": "AAAAA"} for i in range(2)], "cannot be read"),
    ],
)
def test_vectors_that_cannot_be_those_of_the_items_end_the_run(
    vectors: RemoteVectors, monkeypatch: pytest.MonkeyPatch, data: list[dict[str, object]], says: str
) -> None:
    """No text gets another's vector, or zeros."""
    monkeypatch.setattr(Handler, "data", lambda handler, texts: data)
    with pytest.raises(ServerRefuses, match=says):
        vectors.embed(["one", "two"])


def test_all_answers_have_vectors_of_one_length(
    server: Server, vectors: RemoteVectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors.embed(["a text"])
    monkeypatch.setattr(Handler, "data", lambda handler, texts: [{"index": 0, "embedding": [1, 2, 3]}])
    with pytest.raises(ServerRefuses, match="3 dimensions, and those before 2"):
        vectors.embed(["a text"])


@pytest.mark.parametrize("value", [None, "nan"])
def test_a_vector_with_nan_is_a_fault_of_its_item(
    vectors: RemoteVectors, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    broken = [value] * 2 if value is None else base64.b64encode(np.full(2, np.nan, np.float32).tobytes()).decode()
    data = [{"index": 0, "embedding": broken}, {"index": 1, "embedding": [1, 2]}]
    monkeypatch.setattr(Handler, "data", lambda handler, texts: data)
    embedded = vectors.embed(["one", "two"])
    assert embedded.faults.keys() == {0}
    assert "NaN" in embedded.faults[0]
    assert embedded.vectors.tolist() == [[0, 0], [1, 2]]


def test_usage_may_be_null(server: Server, vectors: RemoteVectors, monkeypatch: pytest.MonkeyPatch) -> None:
    really_answer = Handler.answer

    def answer(handler: Handler, status: int, content: object, headers: dict[str, str] | None = None) -> None:
        really_answer(handler, status, {**content, "usage": None} if isinstance(content, dict) else content, headers)

    monkeypatch.setattr(Handler, "answer", answer)
    assert vectors.embed(["a text"]).num_tokens == 0


def test_a_server_that_blames_any_text_ends_the_run_with_its_first_request(
    server: Server, vectors: RemoteVectors
) -> None:
    """A field that it does not know is blamed with 400, too: not every row is to be sent by itself to hear that."""
    server.statuses = [(400, {})] * 1000
    with pytest.raises(ServerRefuses, match="400: it says 400"):
        vectors.embed([f"text {i}" for i in range(MAX_ITEMS)])
    assert len(server.bodies) == 2


def test_a_key_that_is_refused_is_what_the_error_says(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Handler, "do_GET", lambda handler: handler.answer(401, {"error": {"message": "no such key"}}))
    with pytest.raises(ServerRefuses, match="gives no vectors: 401: no such key"):
        RemoteVectors(read_target(server.url, "a-key"), RemoteOptions(None, {}))


@pytest.mark.parametrize(("status", "ended_by"), [(401, ServerRefuses), (503, KeyboardInterrupt)])
def test_requests_that_are_under_way_at_the_end_are_given_up(
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    status: int,
    ended_by: type[BaseException],
) -> None:
    """Python would say on stderr that nobody has looked at their tasks."""

    async def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    server.statuses = [(status, {})] * 3
    vectors = RemoteVectors(read_target(server.url, "a-key"), RemoteOptions(None, {}))
    with monkeypatch.context() as patched:
        patched.setattr(remote_vectors.asyncio, "sleep", interrupted)
        with pytest.raises(ended_by):
            vectors.embed(TEXTS)
    vectors.close()
    del vectors
    gc.collect()
    assert not caplog.records


def test_requests_are_small() -> None:
    lengths = [len(numbers) for numbers in requests_of(["x" * 30_000] * 5 + ["y"] * 200)]
    assert lengths == [2, 2, 1 + 63, 64, 64, 9]
    assert [i for numbers in requests_of(TEXTS) for i in numbers] == list(range(len(TEXTS)))
