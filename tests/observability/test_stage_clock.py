from __future__ import annotations

from embedway.observability.stage_clock import StageClock


def test_each_stage_ends_where_the_next_begins_or_when_it_is_told() -> None:
    clock = StageClock()
    clock.begin("parse")
    clock.begin("tokenize")
    clock.end()
    clock.end()
    clock.begin("encode")
    clock.end()
    assert [stage for stage, _, _ in clock.stages] == ["parse", "tokenize", "encode"]
    (_, _, parsed), (_, began, tokenized), (_, encoding, encoded) = clock.stages
    assert parsed == began <= tokenized <= encoding <= encoded


def test_the_engine_s_stages_end_as_its_answer_comes() -> None:
    clock = StageClock()
    clock.answered(queue_seconds=2.0, compute_seconds=0.5)
    (queue, began, queued), (compute, computing, ended) = clock.stages
    assert (queue, compute) == ("queue", "compute")
    assert queued == computing
    assert abs(queued - began - 2.0) < 1e-6
    assert abs(ended - computing - 0.5) < 1e-6
