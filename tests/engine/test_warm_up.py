from __future__ import annotations

import numpy as np
import pytest

from embedway.engine.warm_up import SAMPLES, WARM_UP_SECONDS, warm_up
from embedway.models.interface import PackedBatch
from fake_model import FakeModel


class TimedModel(FakeModel):
    """Takes `fixed + per_token · tokens` milliseconds on a clock of its own, and ten times as long for a new size."""

    def __init__(self, fixed: float, per_token: float) -> None:
        super().__init__()
        self.now = 0.0
        self._fixed, self._per_token = fixed, per_token
        self._sizes: set[int] = set()

    def clock(self) -> float:
        return self.now

    def embed(self, batch: PackedBatch) -> np.ndarray:
        took = self._fixed + self._per_token * batch.num_tokens
        self.now += took / 1000 * (1 if batch.num_tokens in self._sizes else 10)
        self._sizes.add(batch.num_tokens)
        return super().embed(batch)


def test_a_fast_model_runs_all_samples_and_is_known_afterwards() -> None:
    model = TimedModel(0.1, 0.003)
    coefficients = warm_up(model, max_length=512, vocab_size=600, clock=model.clock).coefficients
    assert len(model.batches) == 1 + 2 * len(SAMPLES)
    assert coefficients.predict(1000, 10_000) == pytest.approx(3.1, rel=0.02)


@pytest.mark.parametrize("per_token", [0.05, 0.5])
def test_a_slower_one_stops_in_time(per_token: float) -> None:
    model = TimedModel(1.0, per_token)
    warm_up(model, max_length=512, vocab_size=600, clock=model.clock)
    assert 3 < len(model.batches) < 2 * len(SAMPLES)
    assert model.now < 6 * WARM_UP_SECONDS  # only a new size, ten times as slow here, may pass it


def test_a_very_slow_one_runs_one_sample() -> None:
    model = TimedModel(1000.0, 10.0)
    time_model = warm_up(model, max_length=512, vocab_size=600, clock=model.clock)
    assert {batch.num_tokens for batch in model.batches} == {1, 4}
    assert time_model.coefficients.predict(4, 16) == pytest.approx(1040)


def test_no_sample_is_longer_than_the_model_reads_or_has_an_id_that_it_lacks() -> None:
    model = TimedModel(0.1, 0.001)
    warm_up(model, max_length=40, vocab_size=30, clock=model.clock)
    assert max(int(np.diff(batch.cu_seqlens).max()) for batch in model.batches) == 40
    assert max(int(batch.token_ids.max()) for batch in model.batches) == 29
