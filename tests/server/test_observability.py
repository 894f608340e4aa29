"""Metrics, logs, traces and /server_info of a whole server: what its processes tell, and what they keep as one dies."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import httpx
from prometheus_client.parser import text_string_to_metric_families

from otlp_collector import collecting
from running_server import RunningServer

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
WAIT_SECONDS = 60
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(client: httpx.Client) -> tuple[Samples, dict[str, str]]:
    """All samples, and the type of each one's family, as the official parser reads them."""
    answer = client.get("/metrics").raise_for_status()
    samples: Samples = {}
    types: dict[str, str] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in samples, "each sample is there once"
            samples[key] = sample.value
            types[sample.name] = family.type
    return samples, types


def value(client: httpx.Client, name: str, **labels: str) -> float:
    return scrape(client)[0].get((name, frozenset(labels.items())), 0.0)


def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def embed(client: httpx.Client, *texts: str) -> None:
    client.post("/v1/embeddings", json={"model": MODEL, "input": texts}).raise_for_status()


def assert_only_grew(before: Samples, after: Samples, types: dict[str, str]) -> None:
    for key, count in before.items():
        if types[key[0]] in ("counter", "histogram"):
            assert after[key] >= count, key


def test_counters_outlive_their_processes_and_all_tell_the_same() -> None:
    flags = ["--api-workers", "2", "--log-format", "json", "--log-requests"]
    with collecting() as collector:
        flags += ["--otlp-endpoint", collector.url]
        with RunningServer(*flags) as server, httpx.Client(base_url=server.url) as client:
            for i in range(4):
                with httpx.Client(base_url=server.url) as other:  # of either API process
                    embed(other, "hello world", f"text {i}")
            first, types = scrape(client)
            assert first["embedway_items_total", frozenset()] == 8
            assert first["embedway_stage_seconds_count", frozenset({("stage", "compute")})] == 4
            assert types["embedway_stage_seconds_count"] == "histogram"
            assert types["embedway_admitted_tokens"] == "gauge"
            until(lambda: value(client, "embedway_engine_cache_hits_total", replica="0") == 3)
            assert value(client, "embedway_batch_sequences_sum", replica="0") == 5

            second, types = scrape(client)
            assert_only_grew(first, second, types)
            server.children("embedway.engine.loop")[0].kill()
            signalled = {"process": "engine 0", "cause": "signal"}
            until(lambda: value(client, "embedway_process_restarts_total", **signalled) == 1)
            until(lambda: client.get("/readyz").status_code == 200)
            embed(client, "another text")
            third, types = scrape(client)
            assert_only_grew(second, third, types)
            assert value(client, "embedway_batch_sequences_sum", replica="0") == 6
            assert value(client, "embedway_requests_in_progress") == 1, "the scrape itself"

            info = client.get("/server_info").json()
            assert info["restarts"] == {"engine 0": {"signal": 1}}
            kinds = sorted(process["kind"] for process in info["processes"])
            assert kinds == ["api", "api", "engine", "supervisor"]
            assert all(process["resident_bytes"] > 2**20 for process in info["processes"])
            pids = {process["pid"] for process in info["processes"]}
            assert {server.process.pid, info["engines"][0]["pid"]} <= pids
    roots = collector.named("POST /v1/embeddings")
    assert len(roots) == 5
    assert all({"queue", "compute"} < {span.name for span in collector.children_of(root)} for root in roots)
    assert collector.named("GET /metrics")
    lines = [json.loads(line) for line in server.log if not is_banner(line)]
    assert {line["process"] for line in lines} == {"supervisor", "api"}
    requests = [line for line in lines if line["logger"] == "embedway.requests" and line.get("items")]
    assert [line["items"] for line in requests] == [2, 2, 2, 2, 1]
    assert all(line["request_id"] and line["message"] == "request" for line in requests)


def is_banner(line: str) -> bool:
    """What the server prints for people, once it is ready, to stdout."""
    return line.startswith(("Embedway ", "  "))
