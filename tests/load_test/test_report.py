from __future__ import annotations

import io
import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from embedway.load_test.histogram import bar, classes
from embedway.load_test.measurement import Load, Measurement
from embedway.load_test.report import as_json, exit_status, number, print_sweep
from embedway.load_test.sweep import Plan, Sweep
from embedway.load_test.target import read_target

PLAN = Plan(
    target=read_target("http://host", "s3cret"),
    model=None,
    texts=itertools.repeat("a"),
    items_per_request=4,
    encoding_format="float",
    seconds=1,
    timeout=1,
)


def measured(load: Load, *latencies: float, client_share: float = 0.1, **failures: int) -> Measurement:
    return Measurement(load, 2.0, np.sort(latencies), 500, failures, client_share)


def shown(sweep: Sweep) -> str:
    file = io.StringIO()
    print_sweep(Console(file=file, width=200, highlight=False, markup=False), PLAN, sweep)
    return file.getvalue()


def test_the_table_has_a_row_a_load_and_the_histogram_is_of_the_best() -> None:
    slow, fast = measured(Load(concurrency=1), 0.001), measured(Load(rate=12.5), *[0.010] * 30, 0.080)
    lines = shown(Sweep("m", 384, [slow, fast], is_saturated=True)).splitlines()
    assert lines[0] == "http://host:80/v1/embeddings, m: 384 dimensions, 4 texts a request"
    [row] = [line.split() for line in lines if line.startswith("12.5 a second")]
    assert row[3:] == ["15.5", "62.0", "250", "10.0", "10.0", "59.0", "80.0", "none", "█" * 12]
    assert "Latencies with 12.5 a second:" in lines
    assert sum("█" * 40 + " 30" in line for line in lines) == 1
    assert "more than 15.5 requests/s" in lines[-1]


def test_what_failed_is_said_with_its_number() -> None:
    text = shown(
        Sweep("m", 3, [Measurement(Load(concurrency=1), 2.0, np.array([]), None, {"429": 7, "timeout": 2}, 0)])
    )
    assert "7 × 429, 2 × timeout" in text
    assert "refused 7 requests" in text


def test_a_busy_client_is_said() -> None:
    assert "The client used most of a core" in shown(
        Sweep("m", 3, [measured(Load(concurrency=1), 1.0, client_share=1)])
    )


def test_the_json_has_every_load_and_no_key() -> None:
    made = Sweep("m", 384, [measured(Load(concurrency=1), 0.25, 0.75), measured(Load(rate=2.0))])
    text = json.dumps(as_json(PLAN, made))
    assert "s3cret" not in text
    first, second = json.loads(text)["loads"]
    assert first["latency"] == {"p50": 0.5, "p90": pytest.approx(0.7), "p99": pytest.approx(0.745), "max": 0.75}
    assert sum(first["histogram"]["counts"]) == 2
    assert second["latency"]["p50"] is None


@pytest.mark.parametrize(
    ("latencies", "failures", "status"),
    [((0.1,), {}, 0), ((0.1,), {"429": 3}, 0), ((0.1,), {"500": 1}, 1), ((), {"429": 3}, 1), ((), {}, 1)],
)
def test_the_exit_status_is_1_where_requests_failed(
    latencies: tuple[float, ...], failures: dict[str, int], status: int
) -> None:
    one = Measurement(Load(concurrency=1), 1.0, np.array(latencies), None, failures, 0.0)
    assert exit_status(Sweep("m", 3, [one])) == status


@given(st.lists(st.floats(1e-6, 1e3), min_size=1), st.integers(1, 50))
def test_every_latency_is_in_one_class(latencies: list[float], count: int) -> None:
    counts, edges = classes(np.array(latencies), count)
    assert counts.sum() == len(latencies)
    assert len(counts) + 1 == len(edges) == count + 1
    assert (np.diff(edges) > 0).all()


def test_a_bar_is_as_long_as_its_share_to_an_eighth() -> None:
    assert [bar(share, 2) for share in (0.0, 1e-9, 0.25, 0.5, 0.75, 1.0)] == ["", "▏", "▌", "█", "█▌", "██"]


def test_numbers_have_three_digits() -> None:
    assert [number(value) for value in (None, 0.0, 0.0123, 1.234, 12.34, 1234.5)] == [
        *("–", "0", "0.012", "1.23", "12.3", "1,234"),
    ]
