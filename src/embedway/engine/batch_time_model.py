"""How long a batch will take: predicted milliseconds from its tokens and lengths, learned from the batches that ran.

    milliseconds = fixed + per_token · tokens + per_square · Σ length²

One pass costs `fixed` whatever is in it, every linear layer costs by the token, and attention by the square of each
length. The coefficients are the product of two things that change at different paces:

- a *shape*, which belongs to the model and the machine: a least-squares fit of relative errors (a short batch counts
  as much as a long one) over the warm-up's samples, which are kept, and the newest batches. Traffic of only one kind
  cannot tell the three terms apart; the samples can;
- a *speed*, which belongs to the moment: neighbours, clock rate, the API's work on the same cores.

Coefficients are never negative, or long batches would look free. A batch with an error far beyond the usual one weighs
less (Huber's weights): a process that was descheduled says nothing of the model. A change that lasts raises the usual
error, and is learned.

Pure state: no clock, no model. Not thread-safe; `coefficients` and `errors` may be read by any thread.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FORGETTING = 0.995
"""What a batch weighs in the shape after the next one: about two hundred count."""
SHAPE_WEIGHT = 0.02
"""Of a batch against a sample of the warm-up: the speed must be the first to take a change over, and the last"""
SPEED_GAIN = 0.05
"""The part of an error that the speed takes over: it follows about the last twenty batches."""
PRIOR_WEIGHT = 0.001
"""Of the first guess, half fixed and half by the token, against one batch"""
LEAST_SHARE = 0.02
"""Of a batch's time: what the first guess leaves open for a term that it has at zero"""
OUTLIER = 2.0
"""Errors of more than so many usual ones weigh less."""
FIRST_USUAL_ERROR, LEAST_USUAL_ERROR, MOST_USUAL_ERROR = 0.1, 0.02, 1.0
USUAL_ERROR_STEP = 1.05
"""The usual error follows the median of the errors by this factor, up or down, a batch."""
LEAST_MS = 1e-3
"""No batch is shorter: such a time says nothing."""
LEAST_CURVATURE = 1e-9
"""Against 1, that batches of one kind leave a matrix that can be solved"""
FIT_ROUNDS = 5
NUM_ERRORS = 256
"""Newest errors that are kept to be shown"""

_SUBSETS = [list(s) for size in (3, 2, 1, 0) for s in itertools.combinations(range(3), size)]

Floats = npt.NDArray[np.float64]


class BatchTime(NamedTuple):
    """A batch that ran."""

    num_tokens: int
    num_squares: float
    """The sum of the squares of its sequences' lengths"""
    milliseconds: float


class Coefficients(NamedTuple):
    """In milliseconds, none negative; all zero before the first batch."""

    fixed: float
    per_token: float
    per_square: float

    def predict(self, num_tokens: float, num_squares: float) -> float:
        """Milliseconds of a batch of so many tokens, whose lengths' squares add up to `num_squares`."""
        return self.fixed + self.variable(num_tokens, num_squares)

    def variable(self, num_tokens: float, num_squares: float) -> float:
        """What so many tokens add to a batch's time."""
        return self.per_token * num_tokens + self.per_square * num_squares


class PredictionErrors(NamedTuple):
    """|predicted - real| / real over the newest batches, each predicted before it ran; zero before the first."""

    median: float
    p90: float


class BatchTimeModel:
    """Predicts 0 ms until it has observed a batch. `samples` are the batches of the warm-up."""

    def __init__(self, samples: Sequence[BatchTime] = ()) -> None:
        self.coefficients = Coefficients(0.0, 0.0, 0.0)
        self._errors: deque[float] = deque(maxlen=NUM_ERRORS)
        self._usual_error = FIRST_USUAL_ERROR
        self._shortest_ms = math.inf
        """At speed 1"""
        self._speed = 1.0
        self._shape: Floats = np.zeros(3)
        # The two least-squares problems that add up: minimise ½ θᵀ information θ - evidence · θ
        self._kept_information, self._kept_evidence = np.zeros((3, 3)), np.zeros(3)
        self._new_information, self._new_evidence = np.zeros((3, 3)), np.zeros(3)
        if timed := [sample for sample in samples if sample.milliseconds >= LEAST_MS]:
            self._fit(timed)

    def observe(self, batch: BatchTime) -> None:
        """Learn from a batch."""
        if batch.milliseconds < LEAST_MS:
            return
        if not self._shape.any():
            self._fit([batch])
            return
        features = np.array((1.0, batch.num_tokens, batch.num_squares))
        features /= max(float(features @ self._shape), 1e-6)
        ratio = batch.milliseconds * float(features[0]) / self._speed  # real / predicted
        self._errors.append(abs(1 - 1 / ratio))
        weight = self._weight_of(abs(ratio - 1))
        self._speed *= 1 + SPEED_GAIN * weight * (ratio - 1)
        ratio = batch.milliseconds * float(features[0]) / self._speed
        weight *= SHAPE_WEIGHT
        self._new_information = FORGETTING * self._new_information + weight * np.outer(features, features)
        self._new_evidence = FORGETTING * self._new_evidence + weight * ratio * features
        self._shortest_ms = min(self._shortest_ms, batch.milliseconds / self._speed)
        self._solve()

    @property
    def fixed_ms(self) -> float:
        """What a batch costs whatever is in it: never more than the shortest one took."""
        return min(self.coefficients.fixed, self._speed * self._shortest_ms)

    def errors(self) -> PredictionErrors:
        """How far off the newest predictions were."""
        errors = sorted(self._errors.copy())
        if not errors:
            return PredictionErrors(0.0, 0.0)
        return PredictionErrors(errors[len(errors) // 2], errors[len(errors) * 9 // 10])

    def _fit(self, samples: Sequence[BatchTime]) -> None:
        """Fit the samples, the odd ones among them with less weight, and keep them."""
        table = np.array(samples, dtype=np.float64)
        times = table[:, 2]
        features = np.column_stack((np.ones(len(table)), table[:, :2])) / times[:, None]
        guess = np.array((0.5, 0.5, 0.0)) / features[0]
        prior = PRIOR_WEIGHT / np.maximum(guess, LEAST_SHARE / features[0]) ** 2
        weights = np.ones(len(table))
        for _ in range(FIT_ROUNDS):
            self._kept_information = np.diag(prior) + (features.T * weights) @ features
            self._kept_evidence = prior * guess + features.T @ weights
            self._solve()
            errors = np.abs(features @ self._shape - 1)
            usual = max(float(np.median(errors)), LEAST_USUAL_ERROR)
            weights = np.minimum(1, OUTLIER * usual / np.maximum(errors, LEAST_USUAL_ERROR))
        self._shortest_ms = float(times.min())

    def _solve(self) -> None:
        self._shape = smallest_non_negative(
            self._kept_information + self._new_information,
            self._kept_evidence + self._new_evidence,
            likely=np.flatnonzero(self._shape).tolist(),
        )
        self.coefficients = Coefficients(*(self._speed * self._shape).tolist())

    def _weight_of(self, error: float) -> float:
        """Huber's weight of an error, which the usual error then follows."""
        weight = min(1.0, OUTLIER * self._usual_error / error) if error else 1.0
        step = USUAL_ERROR_STEP if error > self._usual_error else 1 / USUAL_ERROR_STEP
        self._usual_error = min(max(self._usual_error * step, LEAST_USUAL_ERROR), MOST_USUAL_ERROR)
        return weight


def smallest_non_negative(matrix: Floats, vector: Floats, *, likely: list[int]) -> Floats:
    """The θ ≥ 0 for which ½ θᵀ matrix θ - vector · θ is smallest; `matrix` [3, 3] is positive semidefinite.

    It is the one whose non-zero entries solve their own equations while no zero entry wants to grow. `likely`: which
    entries are non-zero, tried first.
    """
    scale = 1 / np.sqrt(matrix.diagonal())  # the features differ by orders of magnitude
    matrix, vector = matrix * np.outer(scale, scale) + LEAST_CURVATURE * np.eye(3), vector * scale
    best, least_growth = np.zeros(3), math.inf
    for entries in (likely, *_SUBSETS):
        solution = np.zeros(3)
        solution[entries] = np.linalg.solve(matrix[entries][:, entries], vector[entries])
        growth = float((vector - matrix @ solution).max())
        if solution.min() >= 0 and growth < least_growth:
            best, least_growth = solution, growth
            if growth < 1e-9:
                break
    return best * scale
