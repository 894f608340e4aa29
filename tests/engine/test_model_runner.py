from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embedway.engine.model_runner import ModelRunner
from embedway.errors import ItemFailed, NonFiniteVector
from embedway.models.interface import PackedBatch
from fake_device import Device
from fake_model import NAN_ID, POISON_ID, FakeModel, fake_vector


def batch_of(sequences: list[list[int]]) -> PackedBatch:
    cu_seqlens = np.cumsum([0, *map(len, sequences)]).astype(np.int32)
    return PackedBatch(np.concatenate(sequences).astype(np.int32), cu_seqlens, np.zeros(len(sequences), np.int32))


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.getLogger("embedway.engine").setLevel(logging.CRITICAL)


ids = st.sampled_from([1, 2, 3, 4, 5, 6, POISON_ID, NAN_ID])


@given(st.lists(st.lists(ids, min_size=1, max_size=4), min_size=1, max_size=12))
def test_only_the_sequences_at_fault_fail_and_the_others_get_their_own_vectors(sequences: list[list[int]]) -> None:
    outcome = ModelRunner(FakeModel()).begin(batch_of(sequences)).outcome()
    for i, sequence in enumerate(sequences):
        if POISON_ID in sequence:
            assert outcome.faults[i] is ItemFailed
        elif NAN_ID in sequence:
            assert outcome.faults[i] is NonFiniteVector
        else:
            assert i not in outcome.faults
            np.testing.assert_array_equal(outcome.vectors[i], fake_vector(sequence))
    assert np.isfinite(outcome.vectors).all()


def test_a_batch_without_faults_runs_once() -> None:
    model = FakeModel()
    outcome = ModelRunner(model).begin(batch_of([[1], [2, 3], [4]])).outcome()
    assert len(model.batches) == 1
    assert not outcome.was_halved


def test_a_batch_that_raised_says_so() -> None:
    assert ModelRunner(FakeModel()).begin(batch_of([[1], [POISON_ID]])).outcome().was_halved


class LostModel(FakeModel):
    """As torch says that CUDA failed."""

    def embed(self, batch: PackedBatch) -> npt.NDArray[np.float32]:
        super().embed(batch)
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


def test_a_lost_device_is_no_fault_of_a_sequence() -> None:
    model = LostModel()
    with pytest.raises(torch.AcceleratorError):
        ModelRunner(model).begin(batch_of([[1], [2]])).outcome()
    assert len(model.batches) == 1  # not halved: nothing can run there any more


def test_batches_in_turn_give_each_its_outcome_and_the_next_is_begun_before() -> None:
    batches = [batch_of([[1]]), batch_of([[2, 3], [POISON_ID]]), batch_of([[4]])]
    device = Device(ends_at_once=True)
    seen = []
    for batch, outcome in ModelRunner(device).run_in_turn(batches):
        seen.append((batch, device.launches.qsize()))
        assert set(outcome.faults) == ({1} if batch is batches[1] else set())
        np.testing.assert_array_equal(outcome.vectors[0], fake_vector(batch.token_ids[: batch.cu_seqlens[1]]))
    assert [count for _, count in seen] == [2, 3, 3]
    assert [batch for batch, _ in seen] == batches


def test_a_model_that_computes_in_its_caller_s_thread_does_so_in_turn() -> None:
    model = FakeModel()
    batches = [batch_of([[i]]) for i in range(1, 4)]
    counts = [len(model.batches) for _ in ModelRunner(model).run_in_turn(batches)]
    assert counts == [1, 2, 3]
