"""A device that works on its own is given the next batch before the one that runs ends; nothing is lost by it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embedway.engine.running_batch import read_running
from embedway.models.interface import PackedBatch
from fake_device import SECONDS, Device
from fake_model import MEMORY_ID, NAN_ID, POISON_ID
from loop_of_test import LoopOfTest, assert_own_answer
from running_engine import to_engine


def test_the_next_batch_is_launched_while_one_runs(tmp_path: Path) -> None:
    device, path = Device(), tmp_path / "running"
    loop = LoopOfTest(device, path)
    first, second = loop.add([[1, 2]], [[3, 4]])
    with loop:
        one, two = device.next_launch(), device.next_launch()
        assert not one.end.is_set()
        assert (one.sequences, two.sequences) == ([[1, 2]], [[3, 4]])
        assert read_running(path) == {first, second}
        one.end.set()
        assert loop.answered().request_id == first
        assert read_running(path) == {second}
        two.end.set()
        assert loop.answered().request_id == second


def test_no_more_than_two_batches_are_on_the_device() -> None:
    device = Device()
    loop = LoopOfTest(device)
    loop.add([[1, 2]], [[3, 4]], [[5, 6]])
    with loop:
        one, two = device.next_launch(), device.next_launch()
        assert loop.queue.depth() == (1, 2)
        one.end.set()
        three = device.next_launch()
        assert not two.end.is_set()
        two.end.set()
        three.end.set()
        assert [loop.answered().token_ids.tolist() for _ in range(3)] == [[1, 2], [3, 4], [5, 6]]


def test_what_would_not_fill_a_batch_waits_for_more() -> None:
    device = Device()
    loop = LoopOfTest(device)
    loop.add([[1, 2]], [[3]])
    with loop:
        device.next_launch().end.set()
        assert loop.answered().token_ids.tolist() == [1, 2]
        two = device.next_launch()
        two.end.set()
        assert two.sequences == [[3]]
        assert loop.answered().token_ids.tolist() == [3]
    assert device.most_at_a_time == 1


def test_what_comes_while_a_long_batch_runs_can_still_overtake() -> None:
    device = Device()
    loop = LoopOfTest(device, batch_ms=1e6)
    loop.add([[1, 2]], [[3, 4]])
    with loop:
        one = device.next_launch()
        urgent = to_engine(9, [[5, 6]], priority=1)
        loop.queue.change([urgent], ())
        one.end.set()
        device.next_launch().end.set()
        device.next_launch().end.set()
        assert [loop.answered().token_ids.tolist() for _ in range(3)] == [[1, 2], [5, 6], [3, 4]]


def test_an_equal_sequence_takes_the_vector_of_the_batch_that_runs(tmp_path: Path) -> None:
    device, path = Device(), tmp_path / "running"
    loop = LoopOfTest(device, path, cache=2**16)
    first, second, third = loop.add([[1, 2]], [[1, 2]], [[3, 4]])
    with loop:
        one = device.next_launch()
        one.end.set()
        answered = [loop.answered(), loop.answered()]
        assert {request.request_id for request in answered} == {first, second}
        for request in answered:
            assert_own_answer(request, [[1, 2]])
        two = device.next_launch()
        assert two.sequences == [[3, 4]]
        two.end.set()
        assert loop.answered().request_id == third


def test_a_closed_queue_ends_the_loop_once_both_batches_are_answered() -> None:
    device = Device()
    loop = LoopOfTest(device)
    loop.add([[1, 2]], [[3, 4]], [[5, 6]])
    with loop:
        one, two = device.next_launch(), device.next_launch()
        loop.queue.close()
        one.end.set()
        two.end.set()
    assert [loop.answered().token_ids.tolist() for _ in range(2)] == [[1, 2], [3, 4]]
    assert loop.answers.empty()


tokens = st.sampled_from([1, 2, 3, POISON_ID, NAN_ID, MEMORY_ID])
sequences = st.lists(tokens, min_size=1, max_size=2)


@given(st.lists(st.lists(sequences, min_size=1, max_size=3), min_size=1, max_size=8), st.booleans(), st.booleans())
def test_every_request_gets_its_own_vectors_or_the_fault_of_its_own_sequence(
    requests: list[list[list[int]]], ends_at_once: bool, has_cache: bool
) -> None:
    device = Device(ends_at_once=ends_at_once)
    loop = LoopOfTest(device, cache=2**16 if has_cache else 0)
    loop.add(*requests)
    with loop, ending(device):
        answered = sorted((loop.answered() for _ in requests), key=lambda request: request.request_id)
    for request, own in zip(answered, requests, strict=True):
        assert_own_answer(request, own)


@contextlib.contextmanager
def ending(device: Device) -> Generator[None]:
    """Ends what is launched, one batch after the other."""

    def run() -> None:
        while (launch := device.launches.get(timeout=SECONDS)) is not None:
            launch.end.set()

    thread = threading.Thread(target=run)
    thread.start()
    yield
    device.launches.put(None)
    thread.join()


class LostDevice(Device):
    def embed(self, batch: PackedBatch) -> npt.NDArray[np.float32]:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


def test_a_lost_device_ends_the_loop() -> None:
    loop = LoopOfTest(LostDevice(ends_at_once=True))
    loop.add([[1]])
    with pytest.raises(torch.AcceleratorError):
        loop.loop.run()
