from __future__ import annotations

from collections.abc import Hashable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from embedway.engine.scheduler import BatchSlice, QueuedRequest, Scheduler


def request(key: int, lengths: list[int]) -> QueuedRequest:
    cu_seqlens = np.cumsum([0, *lengths]).astype(np.int32)
    return QueuedRequest(key=key, token_ids=np.arange(cu_seqlens[-1], dtype=np.int32), cu_seqlens=cu_seqlens)


def sequences_of(slices: list[BatchSlice[QueuedRequest]]) -> list[tuple[Hashable, int]]:
    return [(piece.request.key, i) for piece in slices for i in range(piece.start, piece.stop)]


def tokens_of(slices: list[BatchSlice[QueuedRequest]]) -> int:
    return sum(int(piece.request.cu_seqlens[piece.stop] - piece.request.cu_seqlens[piece.start]) for piece in slices)


requests_of_lengths = st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=20), max_size=12)


@given(requests_of_lengths, st.integers(1, 60))
def test_nothing_is_lost_or_run_twice_and_the_order_is_arrival(lengths: list[list[int]], budget: int) -> None:
    scheduler = Scheduler[QueuedRequest](max_batch_tokens=budget)
    for key, of_request in enumerate(lengths):
        scheduler.add(request(key, of_request))
    taken = []
    while slices := scheduler.next_batch():
        taken += sequences_of(slices)
    assert taken == [(key, i) for key, of_request in enumerate(lengths) for i in range(len(of_request))]
    assert (scheduler.queued_requests, scheduler.queued_tokens) == (0, 0)


@given(requests_of_lengths, st.integers(1, 60))
def test_a_batch_keeps_its_budget_unless_one_sequence_alone_is_longer(lengths: list[list[int]], budget: int) -> None:
    scheduler = Scheduler[QueuedRequest](max_batch_tokens=budget)
    for key, of_request in enumerate(lengths):
        scheduler.add(request(key, of_request))
    while slices := scheduler.next_batch():
        assert tokens_of(slices) <= budget or len(sequences_of(slices)) == 1


@given(
    st.lists(st.one_of(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 30), st.none()), max_size=40)
)
def test_any_mix_of_adding_cancelling_and_taking_keeps_the_books(steps: list[list[int] | int | None]) -> None:
    """A list adds a request, a number cancels that request, None takes a batch."""
    scheduler = Scheduler[QueuedRequest](max_batch_tokens=10)
    waiting: dict[Hashable, list[tuple[Hashable, int]]] = {}
    lengths: dict[tuple[Hashable, int], int] = {}
    for key, step in enumerate(steps):
        if isinstance(step, list):
            scheduler.add(request(key, step))
            waiting[key] = [(key, i) for i in range(len(step))]
            lengths.update({(key, i): n for i, n in enumerate(step)})
        elif isinstance(step, int):
            assert scheduler.cancel(step) == bool(waiting.pop(step, []))
        else:
            for key_taken, i in sequences_of(scheduler.next_batch()):
                waiting[key_taken].remove((key_taken, i))
        assert scheduler.queued_tokens == sum(lengths[s] for of_request in waiting.values() for s in of_request)
        assert scheduler.queued_requests == sum(bool(of_request) for of_request in waiting.values())


def test_a_cancelled_request_never_runs() -> None:
    scheduler = Scheduler[QueuedRequest](max_batch_tokens=100)
    scheduler.add(request(1, [5]))
    scheduler.add(request(2, [5]))
    assert scheduler.cancel(1)
    assert sequences_of(scheduler.next_batch()) == [(2, 0)]


def test_what_is_left_of_a_half_run_request_can_be_cancelled() -> None:
    scheduler = Scheduler[QueuedRequest](max_batch_tokens=5)
    scheduler.add(request(1, [5, 5, 5]))
    assert sequences_of(scheduler.next_batch()) == [(1, 0)]
    assert scheduler.cancel(1)
    assert scheduler.next_batch() == []
    assert not scheduler.cancel(1)


def test_short_requests_share_a_batch_with_the_rest_of_a_long_one() -> None:
    scheduler = Scheduler[QueuedRequest](max_batch_tokens=10)
    scheduler.add(request(1, [6, 6]))
    scheduler.add(request(2, [2, 2]))
    assert sequences_of(scheduler.next_batch()) == [(1, 0)]
    assert sequences_of(scheduler.next_batch()) == [(1, 1), (2, 0), (2, 1)]
