from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.checkpoints import Checkpoints
from benchmarks.machine import read_machine
from benchmarks.peers import PEERS, Server
from benchmarks.results import Serving, load
from benchmarks.serving import Comparison
from benchmarks.serving_tables import print_serving
from benchmarks.texts import query_lengths
from benchmarks.workloads import Workload

BROKEN = Server(
    name="broken",
    environment=None,
    distribution="embedway",
    command=("python", "-c", "raise SystemExit('out of order')"),
    path="/",
)
QUERIES = Workload(name="a few queries", group="", lengths=query_lengths, connections=2, num_texts=6, seconds=60)


def test_a_contestant_that_fails_is_noted_and_the_others_are_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = Serving(machine=read_machine(), date="", command="")
    comparison = Comparison(result, tmp_path / "serving.json", [QUERIES], Checkpoints(tmp_path), scale=1.0)
    comparison.run_round([BROKEN, PEERS["embedway"], PEERS["sentence-transformers"]], 0)
    assert "out of order" in result.failures["broken"]
    assert [(run.peer, run.workload, run.texts) for run in result.runs] == [("embedway", "a few queries", 6)]
    assert 6 * 6 <= result.runs[0].tokens <= 6 * 18
    start = result.starts[0]
    assert start.worst_cosine is not None
    assert start.worst_cosine > 0.999
    assert start.seconds_to_first_answer > 0
    assert start.loaded_resident_mb >= start.loaded_proportional_mb > 50
    assert load(tmp_path / "serving.json", Serving) == result
    print_serving(result)
    assert "| a few queries | embedway |" in capsys.readouterr().out
