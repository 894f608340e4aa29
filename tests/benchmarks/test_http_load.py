"""The client, against a server of a few lines."""

from __future__ import annotations

import pytest
from benchmarks.http_load import RequestFailed, post_once, run_load, write_request

from recording_server import Recorder


def test_every_request_is_sent_once_and_timed(server: Recorder) -> None:
    words = [f"text {i}" for i in range(50)]
    requests = [write_request("/v1/embeddings", [word]) for word in words]
    result = run_load(server.server_port, requests, connections=4, seconds=60)
    assert sorted(map(str, server.inputs)) == sorted(words)
    assert len(result.latencies) == 50
    assert 0 < max(result.latencies) <= result.seconds


def test_several_texts_go_as_a_list(server: Recorder) -> None:
    post_once(server.server_port, write_request("/", ["a", "b"]))
    assert server.inputs == [["a", "b"]]


def test_no_request_begins_once_the_time_is_over(server: Recorder) -> None:
    result = run_load(server.server_port, [write_request("/", ["late"])], connections=1, seconds=-1)
    assert result.latencies == []
    assert server.inputs == []


def test_an_answer_without_vectors_is_an_error(server: Recorder) -> None:
    with pytest.raises(RequestFailed, match=r"status 400.*refuse"):
        run_load(server.server_port, [write_request("/", ["refuse"])], connections=1, seconds=60)


def test_a_closed_connection_is_an_error(server: Recorder) -> None:
    with pytest.raises(RequestFailed, match="closed"):
        post_once(server.server_port, write_request("/", ["hang up"]))
