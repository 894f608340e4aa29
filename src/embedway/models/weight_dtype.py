"""The type in which a model computes: measured at start, and checked against float32 on this machine. No torch.

`auto` is the fastest type whose vectors stay within WORST_COSINE of float32's. CPUs differ too much for a rule: float16
matrix products are as fast as bfloat16's on one and 17 times slower on another.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from threadpoolctl import threadpool_limits

from embedway.errors import InvalidSetting
from embedway.kernels.native import GemmType
from embedway.models.json_files import read_object
from embedway.models.native_model import NativeModel
from embedway.models.reference_encoder import ReferenceEncoder
from embedway.models.sample_batch import sample_batch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from embedway.kernels.native import EncoderWeights, Floats, LayerWeights
    from embedway.model_spec import ModelSpec
    from embedway.models.bert_config import EncoderConfig
    from embedway.models.dense import Dense
    from embedway.models.interface import EmbeddingModel, PackedBatch

    MakeModel: TypeAlias = Callable[[GemmType, EncoderWeights, int], EmbeddingModel]
    """(type, weights, threads) → model"""

logger = logging.getLogger("embedway.models")

BY_EXACTNESS: tuple[GemmType, ...] = ("float32", "float16", "bfloat16")
WORST_COSINE = 0.99994
"""To float32 in the start-up check, for a type that `auto` chooses. The worst of a thousand texts is farther off than
that of 16 sequences (MiniLM in bfloat16: 0.99995 and 0.99998), and is to be within 0.9999."""
BROKEN_COSINE = {"float32": 0.99999, "float16": 0.98, "bfloat16": 0.98}
"""Below it, rounding is no excuse: what computes the type is at fault."""
NEEDED_GAIN = 1.05
"""Speeds closer than this are a tie, which the more exact type wins: float32 above all."""

CHECK_LENGTHS = (2, 3, 4, 9)
"""Short ones: they are as far off as long ones."""
CHECK_PARAMETERS = 100_000_000
MOST_CHECKS = 4
"""CHECK_LENGTHS are taken so often in a small model, less often where that many weights are exceeded."""
TIMED_LENGTHS = ((12,), (8, 12, 16, 16, 16, 16, 20, 24))
"""A short query, and a batch."""
TIMED_PARAMETERS = 12_000_000
"""Of a large model the first layers are timed, up to so many weights: each layer does the same work."""
ROUNDS = 5
SECONDS = 0.25
"""No round begins after so long, but the first."""
PATIENCE = 2
HOPELESS = 2.0
"""After PATIENCE rounds, a type that is so many times slower than the fastest is not timed again."""


@dataclass(frozen=True, slots=True)
class StartCheck:
    """Some short sequences, and what they must come out as."""

    batch: PackedBatch
    expected: Floats

    @classmethod
    def of(
        cls, spec: ModelSpec, config: EncoderConfig, weights: EncoderWeights, dense: tuple[Dense, ...]
    ) -> StartCheck:
        encoder = ReferenceEncoder(config.shape, weights)
        reference = NativeModel(spec, config, encoder, dense, dtype="float32", backend="numpy")
        times = CHECK_PARAMETERS // (len(weights.layers) * num_parameters(weights.layers[0]))
        batch = sample_batch(CHECK_LENGTHS * max(1, min(times, MOST_CHECKS)), spec)
        # numpy's own threads spin while they wait: on a busy machine that took ten times as long
        with threadpool_limits(1, user_api="blas"):
            return cls(batch, reference.embed(batch))

    def worst_cosine(self, model: EmbeddingModel) -> float:
        """Of the model's vectors to the expected ones; -1 where one is not finite."""
        a, b = model.embed(self.batch).astype(np.float64), self.expected.astype(np.float64)
        cosines = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
        return float(np.nan_to_num(cosines, nan=-1.0).min())


def load_in_best_type(
    asked: str,
    possible: Sequence[GemmType],
    *,
    spec: ModelSpec,
    weights: EncoderWeights,
    make: MakeModel,
    threads: int,
    check: StartCheck,
) -> EmbeddingModel | None:
    """The model in the type that was asked for, or for `auto` in the best of the possible ones (float32 is one).

    It has passed its check. None where what computes it gives wrong vectors in every type that came into question.
    """
    gains: dict[GemmType, float] = {}
    if asked == "auto" and len(possible) > 1:
        samples = [sample_batch(lengths, spec) for lengths in TIMED_LENGTHS]
        some = first_layers(weights)
        gains = measure_gains({dtype: make(dtype, some, 1) for dtype in possible}, samples)
    order = preference(gains) if asked == "auto" else [check_dtype(asked)]
    for dtype in order:
        model = make(dtype, weights, threads)
        cosine = check.worst_cosine(model)
        limit = max(BROKEN_COSINE[dtype], WORST_COSINE if asked == "auto" else 0)
        if cosine >= limit:
            how = describe(gains) if gains else "the only type here" if asked == "auto" else "as asked"
            model.facts["dtype_choice"] = f"{how}; cosine to exact {cosine:.6f}"
            return model
        logger.warning("%s: %s is too far from float32 here, cosine %.6f", spec.name, dtype, cosine)
        del model  # never two copies of a model
    return None


def measure_gains(
    models: Mapping[GemmType, EmbeddingModel],
    samples: Sequence[PackedBatch],
    *,
    clock: Callable[[], float] = time.thread_time,
) -> dict[GemmType, float]:
    """How many times float32's speed each type reaches: best times of alternating runs, each sample of one weight.

    The models have one thread, and the clock is that thread's: a busy machine does not stop it.
    """
    best = {dtype: [math.inf] * len(samples) for dtype in models}
    started_at = clock()
    for model in models.values():  # first calls compile and allocate
        for sample in samples:
            model.embed(sample)
    for i in range(ROUNDS):
        for dtype in contenders(best) if i >= PATIENCE else best:
            for j, sample in enumerate(samples):
                began = clock()
                models[dtype].embed(sample)
                best[dtype][j] = min(best[dtype][j], clock() - began)
        if clock() - started_at > SECONDS:
            break
    return {dtype: 1 / _relative_time(times, best["float32"]) for dtype, times in best.items()}


def contenders(best: Mapping[GemmType, list[float]]) -> list[GemmType]:
    """Types worth another run; float32 always is, since the others are measured against it."""
    fastest = min(math.prod(times) for times in best.values())
    return [
        dtype
        for dtype, times in best.items()
        if dtype == "float32" or math.prod(times) <= fastest * HOPELESS ** len(times)
    ]


def preference(gains: Mapping[GemmType, float]) -> list[GemmType]:
    """Types from the best one to float32, which needs no other behind it: it cannot be too inexact."""
    left, order = dict(gains or {"float32": 1.0}), []
    while "float32" in left:
        fastest = max(left.values())
        ties = [dtype for dtype, gain in left.items() if gain * NEEDED_GAIN >= fastest]
        order.append(min(ties, key=BY_EXACTNESS.index))
        del left[order[-1]]
    return order


def describe(gains: Mapping[GemmType, float]) -> str:
    parts = [f"{dtype} {gain:.2g}x" for dtype, gain in gains.items() if dtype != "float32"]
    return f"measured: {', '.join(parts)} of float32's speed"


def first_layers(weights: EncoderWeights) -> EncoderWeights:
    count = max(1, TIMED_PARAMETERS // num_parameters(weights.layers[0]))
    return replace(weights, layers=weights.layers[:count])


def num_parameters(layer: LayerWeights) -> int:
    """Of its matrices"""
    matrices = (layer.qkv_weight, layer.attention_weight, layer.up_weight, layer.down_weight)
    return sum(matrix.size for matrix in matrices)


def check_dtype(dtype: str) -> GemmType:
    """Raise InvalidSetting for what is not a type."""
    found = next((known for known in BY_EXACTNESS if known == dtype), None)
    if found is None:
        raise InvalidSetting(setting="--dtype", problem=f"{dtype!r} is not auto, {', '.join(BY_EXACTNESS)}")
    return found


def declared_dtype(spec: ModelSpec) -> GemmType:
    """`auto` on CUDA: the checkpoint's own 16-bit type, else bfloat16."""
    config = read_object(Path(spec.folder), "config.json")
    if config is not None:
        for part in (config.object("text_config"), config):
            declared = part.text("dtype") or part.text("torch_dtype")
            if declared in ("float16", "bfloat16"):
                return check_dtype(declared)
    return "bfloat16"


def _relative_time(times: list[float], exact_times: list[float]) -> float:
    """Geometric mean of the samples' ratios."""
    ratios = [time / exact for time, exact in zip(times, exact_times, strict=True)]
    return math.prod(ratios) ** (1 / len(ratios))
