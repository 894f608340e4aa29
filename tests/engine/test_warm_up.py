from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from checkpoints import tiny_checkpoint, tiny_spec
from embedway.engine.warm_up import IMAGES, TEXT_SECONDS, TEXTS, Samples, warm_up
from embedway.model_spec import VisionSpec
from embedway.models.interface import PackedBatch
from encoded_media import CLIP, QWEN2, SIGLIP, SIGLIP2, vision_spec
from fake_model import FakeModel

TEXTS_OF_600 = Samples.of_texts(max_length=512, vocab_size=600)


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
    coefficients = warm_up(model, TEXTS_OF_600, clock=model.clock).coefficients
    assert len(model.batches) == 1 + 2 * len(TEXTS)
    assert coefficients.predict(1000, 10_000) == pytest.approx(3.1, rel=0.02)


@pytest.mark.parametrize("per_token", [0.05, 0.5])
def test_a_slower_one_stops_in_time(per_token: float) -> None:
    model = TimedModel(1.0, per_token)
    warm_up(model, TEXTS_OF_600, clock=model.clock)
    assert 3 < len(model.batches) < 2 * len(TEXTS)
    assert model.now < 6 * TEXT_SECONDS  # only a new size, ten times as slow here, may pass it


def test_a_very_slow_one_runs_one_sample() -> None:
    model = TimedModel(1000.0, 10.0)
    time_model = warm_up(model, TEXTS_OF_600, clock=model.clock)
    assert {batch.num_tokens for batch in model.batches} == {4}
    assert time_model.coefficients.predict(4, 16) == pytest.approx(1040)


def test_no_sample_is_longer_than_the_model_reads_or_has_an_id_that_it_lacks() -> None:
    model = TimedModel(0.1, 0.001)
    warm_up(model, Samples.of_texts(max_length=40, vocab_size=30), clock=model.clock)
    assert max(int(np.diff(batch.cu_seqlens).max()) for batch in model.batches) == 40
    assert max(int(batch.token_ids.max()) for batch in model.batches) == 29


@pytest.mark.parametrize("vision", [vision_spec(CLIP), vision_spec(SIGLIP), vision_spec(SIGLIP2), vision_spec(QWEN2)])
def test_a_model_that_reads_images_is_known_by_them(vision: VisionSpec, tmp_path: Path) -> None:
    spec = msgspec.structs.replace(tiny_spec(tiny_checkpoint("bert", tmp_path / "model")), vision=vision)
    model = TimedModel(10.0, 0.01)
    coefficients = warm_up(model, Samples.of(spec), clock=model.clock).coefficients
    assert [len(batch.visuals) for batch in model.batches[1::2]] == list(IMAGES)
    for batch in model.batches:
        [(image,), *others] = batch.visuals.values()
        assert all(other == (image,) for other in others)
        assert batch.num_tokens == len(batch.visuals) * image.num_tokens
        _, height, width, _ = image.pixels.shape
        unit = vision.image.patch_size * vision.image.merge_size
        assert (height % unit, width % unit) == (0, 0)
        assert image.num_tokens == height * width // unit**2 + vision.image.class_tokens
    assert coefficients.fixed == pytest.approx(10, rel=0.1)
