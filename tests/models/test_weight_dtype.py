from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING

import numpy as np
import pytest

from checkpoints import tiny_checkpoint, tiny_spec
from embedway.errors import InvalidSetting
from embedway.models import weight_dtype
from embedway.models.bert_config import read_encoder_config
from embedway.models.bert_weights import read_weights
from embedway.models.native_model import NativeModel
from embedway.models.reference_encoder import ReferenceEncoder
from embedway.models.weight_dtype import (
    StartCheck,
    check_dtype,
    contenders,
    first_layers,
    load_in_best_type,
    measure_gains,
    preference,
)
from packed_batches import packed

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from embedway.kernels.native import EncoderWeights, GemmType
    from embedway.models.adapter_checkpoint import AdapterWeights
    from embedway.models.interface import EmbeddingModel, PackedBatch, PreparedAdapter

SAMPLES = [packed([[5] * 2]), packed([[5] * 10, [6] * 10])]


class Clock:
    """Stands still but for what a TimedModel takes."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class TimedModel:
    """Takes `seconds` a token on the clock, now and then far longer."""

    dtype, device, dimension = "float32", "cpu", 1

    def __init__(self, clock: Clock, seconds: float, hiccups: tuple[int, ...] = ()) -> None:
        self.facts: dict[str, str] = {}
        self.clock, self.seconds, self.hiccups = clock, seconds, hiccups
        self.calls = 0

    def embed(self, batch: PackedBatch) -> npt.NDArray[np.float32]:
        self.calls += 1
        self.clock.now += self.seconds * batch.num_tokens * (50 if self.calls in self.hiccups else 1)
        return np.zeros((batch.num_sequences, 1), np.float32)

    def make_adapter(self, weights: AdapterWeights) -> PreparedAdapter:
        raise NotImplementedError


def test_the_best_of_several_runs_counts_so_that_hiccups_do_not() -> None:
    clock = Clock()
    models: dict[GemmType, TimedModel] = {
        "float32": TimedModel(clock, 2e-6, hiccups=(1, 3, 4)),
        "bfloat16": TimedModel(clock, 1e-6, hiccups=(2, 5, 6, 8)),
    }
    gains = measure_gains(models, SAMPLES, clock=clock)
    assert gains == pytest.approx({"float32": 1, "bfloat16": 2})


def test_a_hopelessly_slow_type_is_timed_twice_and_float32_always() -> None:
    clock = Clock()
    models: dict[GemmType, TimedModel] = {
        "float32": TimedModel(clock, 3e-6),
        "float16": TimedModel(clock, 17e-6),
        "bfloat16": TimedModel(clock, 1e-6),
    }
    gains = measure_gains(models, SAMPLES, clock=clock)
    assert gains == pytest.approx({"float32": 1, "float16": 3 / 17, "bfloat16": 3})
    warm_up = len(SAMPLES)
    assert models["float16"].calls == warm_up + weight_dtype.PATIENCE * len(SAMPLES)
    assert models["float32"].calls == models["bfloat16"].calls == warm_up + weight_dtype.ROUNDS * len(SAMPLES)


def test_a_large_model_is_timed_for_a_bounded_time() -> None:
    clock = Clock()
    models: dict[GemmType, TimedModel] = {"float32": TimedModel(clock, 0.1), "bfloat16": TimedModel(clock, 0.09)}
    measure_gains(models, SAMPLES, clock=clock)
    assert models["float32"].calls == 2 * len(SAMPLES)


def test_everything_is_a_contender_before_anything_was_timed() -> None:
    assert contenders({"float32": [float("inf")], "float16": [float("inf")]}) == ["float32", "float16"]


@pytest.mark.parametrize(
    ("gains", "order"),
    [
        ({}, ["float32"]),
        ({"float32": 1.0, "bfloat16": 2.2}, ["bfloat16", "float32"]),
        ({"float32": 1.0, "bfloat16": 1.04}, ["float32"]),
        ({"float32": 1.0, "bfloat16": 0.8, "float16": 0.06}, ["float32"]),
        ({"float32": 1.0, "bfloat16": 6.4, "float16": 6.3}, ["float16", "bfloat16", "float32"]),
        ({"float32": 1.0, "bfloat16": 6.4, "float16": 2.0}, ["bfloat16", "float16", "float32"]),
    ],
)
def test_the_fastest_type_comes_first_and_a_tie_goes_to_the_more_exact(
    gains: dict[GemmType, float], order: list[str]
) -> None:
    assert preference(gains) == order


class NoisyModel(NativeModel):
    """Its vectors are off by noise of a given size."""

    noise = 0.0

    def embed(self, batch: PackedBatch) -> npt.NDArray[np.float32]:
        vectors = super().embed(batch)
        random = np.random.default_rng(0).standard_normal(vectors.shape)
        return (vectors + self.noise * np.abs(vectors).mean() * random).astype(np.float32)


class Bench:
    """A tiny model in three types, as fast and as exact as a test wants them."""

    def __init__(self, folder: Path, noise: dict[GemmType, float]) -> None:
        self.spec = tiny_spec(tiny_checkpoint("bert", folder))
        config = read_encoder_config(self.spec)
        assert config is not None
        self.config, self.noise = config, noise
        self.weights = read_weights(self.spec, config)
        self.check = StartCheck.of(self.spec, config, self.weights, ())
        self.alive: weakref.WeakSet[NativeModel] = weakref.WeakSet()
        self.most_alive = 0

    def make(self, dtype: GemmType, weights: EncoderWeights, threads: int) -> NativeModel:
        assert threads == (4 if weights is self.weights else 1)
        encoder = ReferenceEncoder(self.config.shape, weights)
        model = NoisyModel(self.spec, self.config, encoder, (), dtype=dtype, backend="numpy")
        model.noise = self.noise[dtype]
        gc.collect()
        self.alive.add(model)
        self.most_alive = max(self.most_alive, len(self.alive))
        return model

    def load(self, asked: str, possible: tuple[GemmType, ...] | None = None) -> EmbeddingModel | None:
        return load_in_best_type(
            asked,
            tuple(self.noise) if possible is None else possible,
            spec=self.spec,
            weights=self.weights,
            make=self.make,
            threads=4,
            check=self.check,
        )


@pytest.fixture
def sixteen_bits_are_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    gains = {"float32": 1.0, "bfloat16": 3.0, "float16": 2.0}
    monkeypatch.setattr(weight_dtype, "measure_gains", lambda models, samples: {d: gains[d] for d in models})


@pytest.mark.usefixtures("sixteen_bits_are_faster")
def test_auto_takes_the_fastest_type_that_is_exact_enough(tmp_path: Path) -> None:
    model = Bench(tmp_path, {"float32": 0.0, "bfloat16": 0.001, "float16": 0.0001}).load("auto")
    assert model is not None
    assert model.dtype == "bfloat16"
    assert model.facts["dtype_choice"].startswith("measured: bfloat16 3x, float16 2x of float32's speed; cosine")


@pytest.mark.usefixtures("sixteen_bits_are_faster")
def test_auto_passes_over_a_type_that_is_too_inexact(tmp_path: Path) -> None:
    model = Bench(tmp_path, {"float32": 0.0, "bfloat16": 0.05, "float16": 0.001}).load("auto")
    assert model is not None
    assert model.dtype == "float16"


@pytest.mark.usefixtures("sixteen_bits_are_faster")
def test_a_model_that_was_passed_over_is_freed_before_the_next_is_made(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {"float32": 0.0, "bfloat16": 0.05, "float16": 0.05})
    timed = len(bench.noise)
    model = bench.load("auto")
    assert model is not None
    assert model.dtype == "float32"
    assert bench.most_alive <= timed
    assert len(bench.alive) == 1


def test_a_type_that_was_asked_for_may_be_less_exact_but_not_broken(tmp_path: Path) -> None:
    model = Bench(tmp_path / "inexact", {"bfloat16": 0.05}).load("bfloat16")
    assert model is not None
    assert model.facts["dtype_choice"].startswith("as asked; cosine to exact 0.99")
    assert Bench(tmp_path / "broken", {"bfloat16": 1.0}).load("bfloat16") is None


@pytest.mark.parametrize("asked", ["auto", "float32"])
def test_float32_that_is_not_exact_is_not_used_at_all(asked: str, tmp_path: Path) -> None:
    assert Bench(tmp_path, {"float32": 0.05}).load(asked) is None


def test_vectors_that_are_not_numbers_do_not_pass(tmp_path: Path) -> None:
    assert Bench(tmp_path, {"float32": float("nan")}).load("float32") is None


def test_only_the_first_layers_of_a_large_model_are_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = Bench(tmp_path, {"float32": 0.0}).weights
    assert len(first_layers(weights).layers) == 2
    monkeypatch.setattr(weight_dtype, "TIMED_PARAMETERS", 1)
    assert len(first_layers(weights).layers) == 1


def test_a_large_model_is_checked_on_fewer_sequences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path, {"float32": 0.0})
    small = bench.check.batch.num_sequences
    monkeypatch.setattr(weight_dtype, "CHECK_PARAMETERS", 1)
    large = StartCheck.of(bench.spec, bench.config, bench.weights, ()).batch.num_sequences
    assert small == weight_dtype.MOST_CHECKS * large


def test_an_unknown_type_is_a_setting_error() -> None:
    with pytest.raises(InvalidSetting, match="int3"):
        check_dtype("int3")
