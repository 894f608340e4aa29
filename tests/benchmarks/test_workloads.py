from __future__ import annotations

import pytest
from benchmarks.texts import query_lengths
from benchmarks.workloads import GROUPS, Workload, choose_workloads, make_load

BATCHES = Workload(name="test", group="", lengths=query_lengths, texts_per_request=8, num_texts=20, seconds=3)


def test_a_load_has_all_texts_in_requests_of_the_wanted_size() -> None:
    load = make_load(BATCHES, 0, time_scale=0.5)
    assert [len(request) for request in load.requests] == [8, 8, 4]
    assert load.seconds == 1.5


def test_rounds_have_texts_of_their_own() -> None:
    first, second = ({text.text for request in make_load(BATCHES, i).requests for text in request} for i in (0, 1))
    assert not first & second


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_is_chosen_whole(group: str) -> None:
    chosen = choose_workloads([group])
    assert chosen
    assert {workload.group for workload in chosen} == {group}


def test_a_workload_is_chosen_by_the_beginning_of_its_name_and_once() -> None:
    assert [w.name for w in choose_workloads(["queries, 64", "queries, 6"])] == ["queries, 64 connections"]


def test_an_unknown_workload_is_refused_with_the_groups_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"'nothing'.*load"):
        choose_workloads(["nothing"])
