from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from embedway.engine.client import EmbedResult
from embedway.observability.metrics import CONTENT_TYPE, Metrics, forget_process
from embedway.packed_sequences import PackedSequences


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """As Prometheus' own parser reads the answer."""
    families = text_string_to_metric_families(metrics.render([None]).decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def count(metrics: Metrics, name: str, **labels: str) -> float | None:
    return samples(metrics).get((name, frozenset(labels.items())))


def test_buckets_add_up_and_end_in_the_count(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path)
    for seconds in (0.001, 0.003, 0.003, 100):
        metrics.request_done("/a", 200, seconds)
    metrics.request_done("/b", 400, 0.5)
    bucket = "embedway_request_seconds_bucket"
    assert count(metrics, bucket, route="/a", le="0.001") == 1
    assert count(metrics, bucket, route="/a", le="0.004") == 3
    assert count(metrics, bucket, route="/a", le="64.0") == 3
    assert count(metrics, bucket, route="/a", le="+Inf") == 4
    assert count(metrics, "embedway_request_seconds_count", route="/a") == 4
    assert count(metrics, "embedway_request_seconds_count", route="/b") == 1
    assert count(metrics, "embedway_request_seconds_sum", route="/b") == 0.5
    assert count(metrics, "embedway_requests_total", route="/a", status="200") == 4
    assert count(metrics, "embedway_engine_ready", replica="0") == 0


def test_processes_are_counted_together(tmp_path: Path) -> None:
    one, other = Metrics(tmp_path), Metrics(tmp_path)
    sequences = PackedSequences.of([np.array([1, 2, 3], np.int32)])
    for metrics in (one, other, other):
        metrics.embedded(sequences, EmbedResult(np.zeros((1, 8), np.float32), 0.1, 0.2))
    other.request_done("/a", 200, 0.1)
    for metrics in (one, other):
        assert count(metrics, "embedway_prompt_tokens_total") == 9
        assert count(metrics, "embedway_queue_seconds_count") == 3
        assert count(metrics, "embedway_requests_total", route="/a", status="200") == 1


def test_a_dead_process_has_no_requests_in_progress_but_keeps_its_counts(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path)
    metrics.request_done("/a", 200, 0.1)
    with metrics.in_progress():
        assert count(metrics, "embedway_requests_in_progress") == 1
        forget_process(tmp_path, os.getpid())
        assert count(metrics, "embedway_requests_in_progress") == 0
        assert count(metrics, "embedway_requests_total", route="/a", status="200") == 1


def test_the_format_s_version_is_told() -> None:
    assert CONTENT_TYPE.startswith("text/plain; version=0.0.4")
