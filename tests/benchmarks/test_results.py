from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.machine import read_machine
from benchmarks.results import Run, Serving, load, medians, quantile_ms, save


def run(peer: str, round_number: int, seconds: float) -> Run:
    return Run(
        peer=peer,
        workload="documents",
        round=round_number,
        seconds=seconds,
        texts=10,
        tokens=100,
        p50_ms=seconds,
        p99_ms=2 * seconds,
        peer_cpu_seconds=seconds,
        client_cpu_seconds=seconds / 2,
    )


def test_figures_are_medians_over_the_rounds() -> None:
    figures = medians([run("a", 0, 1), run("b", 0, 100), run("a", 1, 50), run("a", 2, 2)])
    assert list(figures) == [("a", "documents"), ("b", "documents")]
    ours = figures["a", "documents"]
    assert (ours.texts_per_second, ours.tokens_per_second, ours.p50_ms, ours.p99_ms) == (5, 50, 2, 4)
    assert ours.cores_used == pytest.approx(1.5)


def test_a_result_comes_back_from_its_file(tmp_path: Path) -> None:
    result = Serving(machine=read_machine(), date="2026-11-24", command="a command", runs=[run("a", 0, 1)])
    save(result, tmp_path / "new" / "serving.json")
    assert load(tmp_path / "new" / "serving.json", Serving) == result


def test_a_quantile_is_a_latency_that_was_measured() -> None:
    latencies = [0.001 * i for i in range(100, 0, -1)]
    assert quantile_ms(latencies, 0.5) == pytest.approx(51)
    assert quantile_ms(latencies, 0.99) == pytest.approx(100)
    assert quantile_ms([0.25], 0.99) == 250
