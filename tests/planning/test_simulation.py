from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedway.engine.batch_time_model import Coefficients
from embedway.planning.machine import Machine
from embedway.planning.simulation import highest_rate, simulate

COSTS = Coefficients(0.5, 0.05, 0.0)


def machine(costs: Coefficients = COSTS, *, max_batch_tokens: int = 16384, shared_ms: float = 0.0) -> Machine:
    return Machine(costs, "a test", path_ms=0.0, shared_ms=shared_ms, max_batch_tokens=max_batch_tokens)


def test_one_request_a_batch_waits_as_an_m_d_1_queue_says() -> None:
    alone = machine(max_batch_tokens=10)
    service_ms = COSTS.predict(10, 100)
    for load in (0.3, 0.7):
        outcome = simulate(alone, rate=1000 * load / service_ms, tokens=10, num_requests=30_000)
        waiting = load * service_ms / (2 * (1 - load))  # Pollaczek and Khinchine
        assert outcome.mean_ms == pytest.approx(service_ms + waiting, rel=0.05)
        assert outcome.requests_per_batch == 1


def test_a_lone_request_takes_its_batch_and_its_way() -> None:
    slow = Machine(COSTS, "a test", path_ms=2.0, shared_ms=0.25)
    outcome = simulate(slow, rate=0.01, tokens=10, num_requests=100)
    assert outcome.p50_ms == pytest.approx(0.5 + 10 * 0.05 + 2.0 + 0.25)


@settings(deadline=None, max_examples=15)
@given(
    rate=st.floats(10, 3000),
    tokens=st.integers(1, 60),
    fixed=st.floats(0.01, 3),
    shared_ms=st.floats(0, 0.5),
    seed=st.integers(0, 100),
)
def test_the_engine_is_busy_for_what_the_batches_take_and_rests_only_when_nothing_waits(
    rate: float, tokens: int, fixed: float, shared_ms: float, seed: int
) -> None:
    own = machine(Coefficients(fixed, 0.05, 0.001), shared_ms=shared_ms)
    outcome = simulate(own, rate=rate, tokens=tokens, num_requests=500, seed=seed)
    each_ms = own.costs.variable(tokens, tokens**2) + shared_ms + fixed / outcome.requests_per_batch
    assert outcome.utilisation == pytest.approx(outcome.answered_per_second * each_ms / 1000)
    assert outcome.utilisation <= 1 + 1e-9
    if outcome.p50_ms > 500:  # it cannot keep up: it never rests
        assert outcome.utilisation > 0.95
    assert outcome.p50_ms >= own.costs.predict(tokens, tokens**2) * (1 - 1e-9)


def test_a_machine_that_cannot_keep_up_answers_what_full_batches_allow() -> None:
    outcome = simulate(machine(), rate=50_000, tokens=10)
    full = 79  # of 0.5 ms each, beside 0.5 ms, in the 40 ms that a batch has where nobody else waits
    assert outcome.answered_per_second == pytest.approx(1000 * full / (0.5 + full * 0.5), rel=0.01)
    assert outcome.utilisation == pytest.approx(1.0)


def test_more_requests_a_second_wait_longer() -> None:
    outcomes = [simulate(machine(), rate=rate, tokens=10, num_requests=5000) for rate in (100, 800, 1500, 1800, 2500)]
    for part in ("p99_ms", "utilisation", "requests_per_batch"):
        values = [getattr(outcome, part) for outcome in outcomes]
        assert values == sorted(values), part


def test_a_seed_gives_one_outcome_and_another_seed_another() -> None:
    first, again, other = (simulate(machine(), rate=900, tokens=10, num_requests=500, seed=n) for n in (1, 1, 2))
    assert first == again
    assert first != other


def test_the_highest_rate_keeps_the_p99_and_a_little_more_does_not() -> None:
    best = highest_rate(machine(), tokens=10, p99_ms=20, num_requests=3000)
    assert best is not None
    assert best.p99_ms <= 20
    assert simulate(machine(), rate=best.rate * 1.02, tokens=10, num_requests=3000).p99_ms > 20


def test_no_rate_keeps_a_p99_that_a_lone_request_breaks() -> None:
    assert highest_rate(machine(), tokens=100, p99_ms=5, num_requests=500) is None
