from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from embedway.engine.batch_time_model import BatchTime, BatchTimeModel, smallest_non_negative
from embedway.engine.warm_up import TEXTS

few_examples = settings(max_examples=20)  # each teaches hundreds of batches
Costs = tuple[float, float, float]
real_costs = st.tuples(st.floats(0.05, 50), st.floats(0.005, 1), st.floats(0, 5e-4))
"""Milliseconds fixed, per token and per square: from a fast kernel to a large model in float32"""


def batch_of(lengths: np.ndarray, costs: Costs, factor: float = 1.0) -> BatchTime:
    """A batch whose time is `costs` to the letter, times `factor`."""
    num_tokens, num_squares = int(lengths.sum()), float((lengths.astype(np.float64) ** 2).sum())
    return BatchTime(num_tokens, num_squares, factor * (costs[0] + costs[1] * num_tokens + costs[2] * num_squares))


def warmed_up(costs: Costs) -> BatchTimeModel:
    return BatchTimeModel([batch_of(np.full(n, length), costs) for n, length in TEXTS])


def mixed_traffic(rng: np.random.Generator, count: int) -> Iterator[np.ndarray]:
    """Lengths of batches of queries, of documents, and of both."""
    for _ in range(count):
        queries = rng.integers(4, 20, rng.integers(0, 40))
        yield np.concatenate([queries, rng.integers(20, 512, rng.integers(0 if len(queries) else 1, 9))])


def error(model: BatchTimeModel, batch: BatchTime) -> float:
    return abs(model.coefficients.predict(batch.num_tokens, batch.num_squares) / batch.milliseconds - 1)


def learn(
    model: BatchTimeModel,
    lengths: Iterator[np.ndarray] | list[np.ndarray],
    costs: Costs,
    factor: Callable[[], float] = lambda: 1.0,
) -> None:
    for each in lengths:
        model.observe(batch_of(each, costs, factor()))


def assert_knows(model: BatchTimeModel, costs: Costs, *, within: float, factor: float = 1.0) -> None:
    rng = np.random.default_rng(99)
    errors = [error(model, batch_of(lengths, costs, factor)) for lengths in mixed_traffic(rng, 100)]
    assert max(errors) < within


@few_examples
@given(real_costs)
def test_the_warm_up_alone_tells_what_traffic_will_take(costs: Costs) -> None:
    assert_knows(warmed_up(costs), costs, within=0.05)


@few_examples
@given(real_costs, st.integers(0, 2**32 - 1))
def test_what_a_short_warm_up_leaves_open_is_learned_from_the_traffic(costs: Costs, seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = BatchTimeModel([batch_of(np.array([4]), costs)])
    learn(model, mixed_traffic(rng, 300), costs, lambda: rng.normal(1, 0.05))
    assert_knows(model, costs, within=0.2)


@few_examples
@given(real_costs, st.integers(0, 2**32 - 1))
def test_batches_that_were_interrupted_do_not_spoil_it(costs: Costs, seed: int) -> None:
    """One in twenty takes up to a thousand times as long."""
    rng = np.random.default_rng(seed)
    model = warmed_up(costs)
    learn(
        model,
        mixed_traffic(rng, 400),
        costs,
        lambda: 10 ** rng.uniform(0.5, 3) if rng.random() < 0.05 else rng.normal(1, 0.05),
    )
    assert_knows(model, costs, within=0.2)


@few_examples
@given(real_costs, st.floats(0.25, 4), st.integers(0, 2**32 - 1))
def test_a_machine_that_changes_its_speed_is_followed(costs: Costs, change: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = warmed_up(costs)
    learn(model, mixed_traffic(rng, 200), costs)
    learn(model, mixed_traffic(rng, 300), costs, lambda: change)
    assert_knows(model, costs, within=0.2, factor=change)


@few_examples
@given(real_costs, st.floats(0.5, 2), st.integers(12, 200), st.integers(0, 2**32 - 1))
def test_traffic_of_one_kind_does_not_make_it_forget_the_others(
    costs: Costs, change: float, length: int, seed: int
) -> None:
    """And when these batches become slower, so do the others, by the same part."""
    rng = np.random.default_rng(seed)
    model = warmed_up(costs)
    learn(model, [np.array([length])] * 1000, costs, lambda: change * rng.normal(1, 0.03))
    assert_knows(model, costs, within=0.3, factor=change)


batches = st.builds(BatchTime, st.integers(1, 10**6), st.floats(1, 1e12), st.floats(0, 1e7))


@given(st.lists(batches, max_size=30), st.lists(batches.filter(lambda b: b.milliseconds > 0), max_size=5))
def test_whatever_it_is_told_no_coefficient_is_negative_or_infinite(
    observed: list[BatchTime], samples: list[BatchTime]
) -> None:
    model = BatchTimeModel(samples)
    for batch in observed:
        model.observe(batch)
        assert all(0 <= value < np.inf for value in model.coefficients)
        assert model.fixed_ms >= 0


def test_nothing_is_predicted_before_the_first_batch_and_that_one_exactly() -> None:
    model = BatchTimeModel()
    assert model.coefficients.predict(1000, 10_000) == 0
    model.observe(BatchTime(num_tokens=20, num_squares=200, milliseconds=4))
    assert model.coefficients.predict(20, 200) == pytest.approx(4)


def test_the_fixed_cost_is_never_more_than_the_shortest_batch_took() -> None:
    model = BatchTimeModel([BatchTime(64, 4096, 30.0)])
    for _ in range(500):
        model.observe(BatchTime(64, 4096, 30.0))  # all the same: any part of it could be fixed
    model.observe(BatchTime(1, 1, 2.0))
    assert model.fixed_ms <= 2


def test_errors_are_of_the_predictions_before_each_batch() -> None:
    model = warmed_up((1.0, 0.1, 0.0))
    assert model.errors() == (0, 0)
    for milliseconds in (11, 11, 11, 22):  # predicted: 11
        model.observe(BatchTime(100, 0, milliseconds))
    assert model.errors().median < 0.01
    assert model.errors().p90 == pytest.approx(0.5, abs=0.01)


@given(
    st.lists(st.lists(st.floats(-1, 1), min_size=3, max_size=3), min_size=3, max_size=6),
    st.lists(st.floats(-1, 1), min_size=3, max_size=3),
)
def test_the_smallest_non_negative_point_is_no_larger_than_any_point_near_it(
    rows: list[list[float]], vector: list[float]
) -> None:
    matrix = np.array(rows).T @ np.array(rows) + 0.01 * np.eye(3)
    goal = np.array(vector)
    assume(np.abs(goal).max() > 1e-3)

    def value(point: np.ndarray) -> float:
        return float(0.5 * point @ matrix @ point - goal @ point)

    solution = smallest_non_negative(matrix, goal, likely=[])
    assert solution.min() >= 0
    for step in np.concatenate([np.eye(3), -np.eye(3)]) * 1e-3:
        assert value(solution) <= value(np.maximum(solution + step, 0)) + 1e-12
