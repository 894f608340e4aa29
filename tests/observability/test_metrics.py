from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from embedway.observability.engine_metrics import Engine, EngineMetrics
from embedway.observability.exposition import CONTENT_TYPE
from embedway.observability.families import FAMILIES, Family
from embedway.observability.metrics import Metrics, forget_process
from embedway.observability.restart_counter import RestartCounter, restarts_in


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """As Prometheus' own parser reads the answer."""
    families = text_string_to_metric_families(metrics.render([Engine(0, "a model", None)]).decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def count(metrics: Metrics, name: str, **labels: str) -> float | None:
    return samples(metrics).get((name, frozenset(labels.items())))


def test_buckets_add_up_and_end_in_the_count(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path)
    for seconds in (0.001, 0.003, 0.003, 100):
        metrics.request_done("/a", 200, seconds, ())
    metrics.request_done("/b", 400, 0.5, ())
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
    for metrics in (one, other, other):
        metrics.embedded(1, 3)
        metrics.request_done("/a", 200, 0.1, [("queue", 1.0, 1.5), ("compute", 1.5, 1.75)])
    for metrics in (one, other):
        assert count(metrics, "embedway_prompt_tokens_total") == 9
        assert count(metrics, "embedway_stage_seconds_count", stage="queue") == 3
        assert count(metrics, "embedway_stage_seconds_sum", stage="compute") == 0.75
        assert count(metrics, "embedway_requests_total", route="/a", status="200") == 3


def test_a_dead_process_has_nothing_any_more_but_what_it_has_counted(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path)
    metrics.watch('embedway_admitted_tokens{class="bulk"}', lambda: 7)
    metrics.refresh()
    metrics.request_done("/a", 200, 0.1, ())
    engine = EngineMetrics(tmp_path, replica=1)
    engine.batch_done(100, 4, 0.01)
    engine.predicted(0.02, 0.01)
    survivor = Metrics(tmp_path)
    with metrics.in_progress():
        assert count(survivor, "embedway_requests_in_progress") == 1
        assert count(survivor, "embedway_admitted_tokens", **{"class": "bulk"}) == 7
        forget_process(tmp_path, os.getpid())
        assert count(survivor, "embedway_requests_in_progress") == 0
        assert count(survivor, "embedway_admitted_tokens", **{"class": "bulk"}) == 0
    assert count(survivor, "embedway_requests_total", route="/a", status="200") == 1
    assert count(survivor, "embedway_batch_tokens_sum", replica="1") == 100
    assert count(survivor, "embedway_batch_predicted_ratio_sum", replica="1") == 2


def test_what_is_watched_is_added_up_over_the_processes_and_may_have_no_limit(tmp_path: Path) -> None:
    one, other = Metrics(tmp_path), Metrics(tmp_path)
    other.watch('embedway_admitted_tokens{class="bulk"}', lambda: 5)
    other.watch("embedway_admission_limit_tokens", lambda: math.inf)
    other.refresh()
    one.watch('embedway_admitted_tokens{class="bulk"}', lambda: 3)
    assert count(one, "embedway_admitted_tokens", **{"class": "bulk"}) == 8
    assert count(one, "embedway_admission_limit_tokens") == math.inf


def test_media_are_timed_by_step_and_kind_and_failures_counted_by_code(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path)
    metrics.media_read("open", "image", 0.5, None)
    metrics.media_read("open", "image", 0.5, "media_fetch_failed")
    assert count(metrics, "embedway_media_seconds_count", step="open", kind="image") == 2
    labels = {"step": "open", "kind": "image", "cause": "media_fetch_failed"}
    assert count(metrics, "embedway_media_failures_total", **labels) == 1


def test_restarts_are_counted_from_zero_and_told_in_words(tmp_path: Path) -> None:
    restarts, metrics = RestartCounter(tmp_path, ["engine 0", "API process 0"]), Metrics(tmp_path)
    assert restarts_in(metrics.totals()) == {}
    assert count(metrics, "embedway_process_restarts_total", process="engine 0", cause="hang") == 0
    for _ in range(2):
        restarts.count("engine 0", "hang")
    assert count(metrics, "embedway_process_restarts_total", process="engine 0", cause="hang") == 2
    assert restarts_in(metrics.totals()) == {"engine 0": {"hang": 2}}


@pytest.mark.parametrize(("name", "family"), FAMILIES.items(), ids=FAMILIES)
def test_names_follow_prometheus_conventions(name: str, family: Family) -> None:
    assert name.endswith("_total") == (family.kind == "counter")
    assert bool(family.buckets) == (family.kind == "histogram")
    assert sorted(family.buckets) == list(family.buckets)
    assert family.text.endswith(".")


def test_the_format_s_version_is_told() -> None:
    assert CONTENT_TYPE.startswith("text/plain; version=0.0.4")
