"""Small requests run in the midst of a batch of others, where the model makes way; nothing is lost by it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedway.engine import run_loop
from embedway.engine.guarded_queue import NEVER
from embedway.engine.running_batch import read_running
from embedway.engine.scheduler import SMALL_REQUEST_TOKENS
from embedway.errors import ItemFailed, NonFiniteVector, ServerFault
from embedway.models.interface import PackedBatch, Preemption
from fake_device import SECONDS
from fake_model import NAN_ID, POISON_ID, FakeModel
from loop_of_test import LoopOfTest, assert_own_answer
from running_engine import to_engine

LARGE = list(range(SMALL_REQUEST_TOKENS + 1))
MOST_TOKENS = 4 * len(LARGE)


class Layered(FakeModel):
    """Between two layers of a large batch `between` is called, and then it makes way."""

    def __init__(self, between: Callable[[], object] = lambda: None, *, layers: int = 2) -> None:
        super().__init__()
        self._between = between
        self._layers = layers

    def allow_preemption(self, preemption: Preemption) -> None:
        self._preemption = preemption

    def embed(self, batch: PackedBatch) -> npt.NDArray[np.float32]:
        if batch.num_tokens >= len(LARGE):
            for _ in range(self._layers - 1):
                self._between()
                self._preemption.make_way()
        return super().embed(batch)


class Gate:
    """Holds a batch between two layers until the test opens it."""

    def __init__(self) -> None:
        self._is_there, self._is_open = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self._is_there.set()
        assert self._is_open.wait(SECONDS)

    def wait_for_a_batch(self) -> None:
        assert self._is_there.wait(SECONDS)

    def open(self) -> None:
        self._is_open.set()


def loop_of(model: FakeModel, path: Path | None = None, *, cache: int = 0) -> LoopOfTest:
    return LoopOfTest(model, path, max_batch_tokens=MOST_TOKENS, cache=cache)


def test_a_small_request_does_not_wait_for_the_batch_that_runs() -> None:
    gate = Gate()
    model = Layered(gate)
    with loop_of(model) as loop:
        large = loop.add([LARGE, LARGE[1:]])
        gate.wait_for_a_batch()
        small, other = loop.add([[1, 2]], [[3], [4]])
        gate.open()
        answered = [loop.answered() for _ in range(3)]
    assert [request.request_id for request in answered] == [small, other, *large]
    assert_own_answer(answered[0], [[1, 2]])
    assert_own_answer(answered[1], [[3], [4]])
    assert_own_answer(answered[2], [LARGE, LARGE[1:]])
    assert [batch.num_sequences for batch in model.batches] == [3, 2]


def test_a_large_request_waits_for_the_batch_that_runs() -> None:
    gate = Gate()
    with loop_of(Layered(gate)) as loop:
        loop.add([LARGE])
        gate.wait_for_a_batch()
        loop.add([LARGE[1:], [5]])
        gate.open()
        assert_own_answer(loop.answered(), [LARGE])
        assert_own_answer(loop.answered(), [LARGE[1:], [5]])


def test_a_small_request_does_not_stop_a_batch_of_small_ones() -> None:
    gate = Gate()
    with loop_of(Layered(gate)) as loop:
        loop.add([[7] * SMALL_REQUEST_TOKENS], [[8] * SMALL_REQUEST_TOKENS])  # as long as a large one
        gate.wait_for_a_batch()
        loop.add([[9]])
        gate.open()
        assert [loop.answered().token_ids[0] for _ in range(3)] == [7, 8, 9]


@pytest.mark.parametrize(("of_small", "goes_first"), [(0, False), (1, True), (2, True)])
def test_a_batch_of_higher_priority_is_not_stopped(of_small: int, goes_first: bool) -> None:
    gate = Gate()
    with loop_of(Layered(gate)) as loop:
        loop.queue.change([to_engine(1, [LARGE], priority=1)], ())
        gate.wait_for_a_batch()
        loop.queue.change([to_engine(2, [[5]], priority=of_small)], ())
        gate.open()
        assert [loop.answered().request_id for _ in range(2)] == ([2, 1] if goes_first else [1, 2])


def test_short_requests_of_bulk_make_way_and_do_not_have_others_made_way_for_them() -> None:
    gate = Gate()
    with loop_of(Layered(gate)) as loop:
        many = [to_engine(n, [[n] * SMALL_REQUEST_TOKENS], priority=-1) for n in (1, 2)]
        loop.queue.change(many, ())
        gate.wait_for_a_batch()
        loop.queue.change([to_engine(3, [[3]], priority=-1), to_engine(4, [[4]])], ())
        gate.open()
        assert [loop.answered().request_id for _ in range(4)] == [4, 1, 2, 3]


def test_who_reads_what_runs_finds_both_batches_and_then_the_first(tmp_path: Path) -> None:
    seen: list[frozenset[int]] = []
    gate, path = Gate(), tmp_path / "running"

    class Looks(Layered):
        def embed(self, batch: PackedBatch) -> npt.NDArray[np.float32]:
            if batch.num_tokens < len(LARGE):
                seen.append(read_running(path))
            vectors = super().embed(batch)
            seen.append(read_running(path))
            return vectors

    with loop_of(Looks(gate), path) as loop:
        (large,) = loop.add([LARGE])
        gate.wait_for_a_batch()
        (small,) = loop.add([[1]])
        gate.open()
        loop.answered()
        loop.answered()
    assert seen == [{small, large}, {small, large}, {large}]


@pytest.mark.parametrize(("token", "fault"), [(POISON_ID, ItemFailed), (NAN_ID, NonFiniteVector)])
@pytest.mark.parametrize("is_small_at_fault", [True, False])
def test_a_fault_stays_with_the_request_that_caused_it(
    token: int, fault: type[ServerFault], is_small_at_fault: bool
) -> None:
    gate = Gate()
    with loop_of(Layered(gate)) as loop:
        large = [*LARGE, 5 if is_small_at_fault else token]
        loop.add([large])
        gate.wait_for_a_batch()
        small = [7, token if is_small_at_fault else 5]
        loop.add([small])
        gate.open()
        first, second = loop.answered(), loop.answered()
    at_fault, other, other_ids = (first, second, large) if is_small_at_fault else (second, first, small)
    assert at_fault.fault == (0, fault)
    assert_own_answer(other, [other_ids])


def test_a_small_request_that_equals_a_sequence_of_the_batch_takes_its_vector() -> None:
    gate = Gate()
    model = Layered(gate)
    with loop_of(model, cache=2**16) as loop:
        loop.add([LARGE, [1, 2]])
        gate.wait_for_a_batch()
        loop.add([[1, 2]], [[3]])
        gate.open()
        answered = [loop.answered() for _ in range(3)]
    assert [batch.num_sequences for batch in model.batches] == [1, 2]
    assert_own_answer(answered[0], [[3]])
    for request in answered[1:]:
        assert_own_answer(request, [LARGE, [1, 2]] if request.request_id == 1 else [[1, 2]])


def test_what_goes_wrong_in_between_ends_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """No request may wait for an answer that was lost: another engine takes over."""
    gate = Gate()
    loop = loop_of(Layered(gate))
    keep = loop.loop._coalescing.keep

    def fail(batch: run_loop.SharedBatch, outcome: run_loop.BatchOutcome) -> None:
        if outcome.vectors.shape[0] == 1:
            raise OSError("no room")
        keep(batch, outcome)

    monkeypatch.setattr(loop.loop._coalescing, "keep", fail)
    loop.add([LARGE, LARGE[1:]])
    thread = threading.Thread(target=lambda: (gate.wait_for_a_batch(), loop.add([[1]]), gate.open()))
    thread.start()
    with pytest.raises(OSError, match="no room"):
        loop.loop.run()
    thread.join()


def test_a_batch_s_time_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a world where the model alone takes time: ten seconds for what is large, one for what is small."""
    now = [100.0]
    gate = Gate()
    took: list[float] = []

    class Slow(Layered):
        def embed(self, batch: PackedBatch) -> npt.NDArray[np.float32]:
            now[0] += 10 if batch.num_tokens >= len(LARGE) else 1
            return super().embed(batch)

    monkeypatch.setattr(run_loop, "time", SimpleNamespace(monotonic=lambda: now[0]))
    loop = loop_of(Slow(gate))
    monkeypatch.setattr(loop.loop._time_model, "observe", lambda batch: took.append(batch.milliseconds))
    with loop:
        loop.add([LARGE])
        gate.wait_for_a_batch()
        loop.add([[1]])
        gate.open()
        loop.answered()
        loop.answered()
    assert took == [1000, 10_000]
    assert loop.loop.counters.compute_seconds == 11


def test_the_alarm_rings_while_something_small_waits_for_a_large_batch() -> None:
    queue = loop_of(Layered()).queue
    large, small = to_engine(1, [LARGE], priority=1), to_engine(2, [[1]], priority=1)
    assert queue.preempt_at[0] == NEVER
    queue.change([large], ())
    queue.take()
    assert queue.preempt_at[0] == NEVER
    queue.change([small], ())
    assert queue.preempt_at[0] == 0
    queue.change((), [(1, 2)])
    assert queue.preempt_at[0] == NEVER
    queue.change([to_engine(3, [[2]])], ())
    assert queue.preempt_at[0] == 0
    assert queue.take_small() == []  # its priority is too low
    assert queue.preempt_at[0] == NEVER
    queue.change([to_engine(4, [[3]], priority=1)], ())
    assert [piece.request.request_id for piece in queue.take_small()] == [4, 3]
    assert queue.preempt_at[0] == NEVER


tokens = st.sampled_from([1, 2, 3, POISON_ID, NAN_ID])
small_requests = st.lists(st.lists(tokens, min_size=1, max_size=3), min_size=1, max_size=4)
large_requests = small_requests.map(lambda sequences: [LARGE, *sequences])


@given(
    st.lists(st.one_of(small_requests, large_requests), min_size=1, max_size=8),
    st.lists(small_requests, max_size=8),
    st.booleans(),
)
def test_every_request_gets_its_own_vectors_or_the_fault_of_its_own_sequence(
    requests: list[list[list[int]]], arriving: list[list[list[int]]], has_cache: bool
) -> None:
    """Some come between the layers of others."""
    left = list(arriving)
    wanted: dict[int, list[list[int]]] = {}

    def one_comes() -> None:
        if left:
            sequences = left.pop()
            wanted.update(zip(loop.add(sequences), [sequences], strict=True))

    loop = loop_of(Layered(one_comes, layers=4), cache=2**16 if has_cache else 0)
    wanted.update(zip(loop.add(*requests), requests, strict=True))
    with loop:
        answered = [loop.answered() for _ in requests]
        while len(answered) < len(wanted):
            answered.append(loop.answered())
    assert loop.answers.empty()
    for request in answered:
        assert_own_answer(request, wanted.pop(request.request_id))
