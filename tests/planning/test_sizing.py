from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedway.engine.batch_time_model import Coefficients
from embedway.planning.machine import Machine, of_throughput
from embedway.planning.sizing import (
    BULK_SHARE,
    HEADROOM,
    Backlog,
    Model,
    Queries,
    machines_with_losses,
    memory_bytes,
    plan_backlog,
    plan_queries,
)

MACHINE = Machine(of_throughput(20_000, 0.0), "a test")
MODEL = Model(dimension=384, weights_bytes=45_000_000)


def test_full_batches_run_at_the_speed_that_was_given() -> None:
    assert MACHINE.bulk_tokens_per_second(200) == pytest.approx(20_000)


def test_a_fixed_cost_and_long_texts_slow_bulk_down() -> None:
    costly = Machine(Coefficients(10.0, 0.05, 0.0), "a test")
    assert costly.bulk_tokens_per_second(200) == pytest.approx(1000 * 600 / 40)  # three of 10 ms beside 10 ms
    squares = Machine(Coefficients(0.0, 0.05, 0.0005), "a test")
    assert squares.bulk_tokens_per_second(200) < squares.bulk_tokens_per_second(20)
    assert squares.bulk_tokens_per_second(1000) == pytest.approx(1000 * 1000 / 550)  # one, though it takes longer


def test_a_deadline_gives_machines_and_machines_give_hours() -> None:
    work = 1e9 * 200 / (20_000 * BULK_SHARE) / 3600
    by_days = plan_backlog(Backlog(10**9, 200, days=7), MACHINE, MODEL, 0.5)
    assert by_days.machines == 19  # 3086 hours of work in 168
    assert by_days.hours == pytest.approx(work / 19)
    assert by_days.hours <= 7 * 24
    assert by_days.cost == pytest.approx(work / 2)
    by_machines = plan_backlog(Backlog(10**9, 200, machines=19), MACHINE, MODEL, None)
    assert (by_machines.hours, by_machines.cost) == (by_days.hours, None)


def test_vectors_take_their_numbers_and_travel_in_the_time_there_is() -> None:
    made = plan_backlog(Backlog(10**9, 200, machines=10), MACHINE, MODEL, None)
    assert made.stored_bytes == {"float32": 1536e9, "int8": 384e9, "binary": 48e9}
    assert made.bytes_out_per_second * made.hours * 3600 == pytest.approx(1536e9)


def test_queries_get_machines_for_their_rate_and_for_losses() -> None:
    made = plan_queries(Queries(10_000, 12, 0.5, 50.0, spare=2, domains=1), MACHINE, MODEL, 1.0)
    assert made is not None
    assert made.needed * made.limit.rate * HEADROOM >= 10_000 > (made.needed - 1) * made.limit.rate * HEADROOM
    assert made.machines == made.needed + 2
    assert made.planned.rate * made.needed == pytest.approx(10_000)
    assert made.planned.p99_ms < made.limit.p99_ms <= 50
    assert made.cost_a_month == made.machines * 730


@given(needed=st.integers(1, 500), spare=st.integers(0, 5), domains=st.integers(1, 6))
def test_enough_are_left_after_any_loss_and_not_one_too_many(needed: int, spare: int, domains: int) -> None:
    count = machines_with_losses(needed, spare=spare, domains=domains)

    def survives(machines: int) -> bool:
        lost_domain = -(-machines // domains) if domains > 1 else 0
        return machines - max(spare, lost_domain) >= needed

    assert survives(count)
    assert not survives(count - 1)


def test_memory_is_the_sum_of_named_parts() -> None:
    parts = memory_bytes(MACHINE, MODEL, tokens=200)
    assert parts["weights"] == 45_000_000
    assert parts["queue"] == pytest.approx(60 * 20_000 * 12)
    assert all(size > 0 for size in parts.values())
