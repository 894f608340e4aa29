"""The dashboard asks for nothing that a server does not have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from running_server import RunningServer

DASHBOARD = json.loads((Path(__file__).parents[2] / "deploy" / "grafana" / "embedway.json").read_text())
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",), "gauge": ("",)}
LABELS = {
    *("le", "instance", "version"),
    *("route", "status", "stage", "class", "cause", "outcome", "step", "kind", "replica", "process"),
}
METRIC = re.compile(r"\bembedway_\w+")


def queries() -> Iterator[str]:
    for panel in PANELS:
        for target in panel["targets"]:
            yield target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"]


def labels_in(query: str) -> set[str]:
    matched = re.findall(r"(\w+)(?:=~|!~|!=|=)\"", query)
    grouped = [name.strip() for names in re.findall(r"\bby \(([^)]*)\)", query) for name in names.split(",")]
    return {*matched, *grouped}


@pytest.fixture(scope="module")
def names() -> set[str]:
    """Of all samples that a server may have, whatever has happened to it."""
    with RunningServer() as server:
        families = list(text_string_to_metric_families(httpx.get(f"{server.url}/metrics").text))
    return {family.name + suffix for family in families for suffix in SUFFIXES[family.type]}


def test_each_query_names_metrics_that_a_real_server_has(names: set[str]) -> None:
    assert len(list(queries())) > 50
    for query in queries():
        used = METRIC.findall(query)
        assert used, query
        assert set(used) <= names, query


def test_each_query_is_whole_and_uses_labels_that_there_are() -> None:
    for query in queries():
        assert all(query.count(left) == query.count(right) for left, right in ("()", "[]", "{}")), query
        assert labels_in(query) <= LABELS, query


def test_all_that_is_measured_of_requests_and_engines_is_shown(names: set[str]) -> None:
    shown = {re.sub("_(bucket|sum|count)$", "", name) for query in queries() for name in METRIC.findall(query)}
    measured = {re.sub("_(bucket|sum|count)$", "", name) for name in names}
    assert measured - shown == {"embedway_items_total", "embedway_engine_load_seconds"}


def test_panels_have_titles_units_and_places_of_their_own() -> None:
    for panel in PANELS:
        assert panel["title"]
        assert panel["type"] == "heatmap" or panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"]["uid"] == "${datasource}"
    for one, other in combinations([panel["gridPos"] for panel in DASHBOARD["panels"]], 2):
        is_beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        is_below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert is_beside or is_below, (one, other)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
