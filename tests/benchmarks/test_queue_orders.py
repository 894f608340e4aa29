from __future__ import annotations

import pytest
from benchmarks.queue_orders import FIXED_MS, ORDERS, arrivals, simulate


@pytest.mark.parametrize("name", list(ORDERS))
def test_every_order_ends_the_same_jobs_and_none_before_its_work_can_be_done(name: str) -> None:
    jobs = arrivals(load=0.9, seconds=20, seed=3)
    work = {job.key: job.left_ms for job in jobs}
    simulate(ORDERS[name](), jobs)
    assert len(jobs) > 1000
    assert all(abs(job.left_ms) < 1e-9 for job in jobs)
    assert all(job.ended_ms >= job.arrived_ms + work[job.key] + FIXED_MS - 1e-6 for job in jobs)
