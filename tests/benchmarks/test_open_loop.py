"""The client that does not wait."""

from __future__ import annotations

from benchmarks.http_load import write_request
from benchmarks.open_loop import run_open_loop

from recording_server import Recorder


def test_every_request_is_sent_once_and_told_apart_by_its_answer(server: Recorder) -> None:
    words = [f"text {i}" for i in range(40)]
    requests = [write_request("/v1/embeddings", [word]) for word in [*words, "refuse", "refuse"]]
    result = run_open_loop(server.server_port, requests, rate=1000.0, seed=1)
    assert sorted(map(str, server.inputs)) == sorted([*words, "refuse", "refuse"])
    assert len(result.answered) == 40
    assert result.other == [400, 400]
    assert result.goodput() == result.num_answered_meanwhile / result.seconds <= 40 / result.seconds


def test_a_request_does_not_wait_for_the_answers_before_it(server: Recorder) -> None:
    """They are due together, and the server holds each until all have come."""
    server.hold_until = 20
    requests = [write_request("/v1/embeddings", [f"text {i}"]) for i in range(20)]
    result = run_open_loop(server.server_port, requests, rate=1e6, seed=1)
    assert len(result.answered) == 20
