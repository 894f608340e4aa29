from __future__ import annotations

import numpy as np
import pytest

from embedway.load_test.measurement import Load, Measurement, best, read_usage


def measured(*latencies: float, seconds: float = 1.0, **failures: int) -> Measurement:
    return Measurement(Load(concurrency=1), seconds, np.sort(latencies), None, failures, client_share=0.1)


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        (b'{"data": [], "usage": {"prompt_tokens": 17, "total_tokens": 17}}', 17),
        (b'{"usage":{"total_tokens":4,"prompt_tokens":3},"data":[]}', 3),
        (b'{"data": []}', None),
        (b'{"usage": {"prompt_tokens": null}}', None),
    ],
)
def test_the_tokens_are_found_wherever_they_stand(body: bytes, tokens: int | None) -> None:
    assert read_usage(body) == tokens


def test_percentiles_are_of_the_answers_only() -> None:
    one = measured(*(i / 1000 for i in range(1, 102)), timeout=50)
    assert one.percentile(50) == pytest.approx(0.051)
    assert one.percentile(100) == pytest.approx(0.101)
    assert measured(timeout=3).percentile(50) is None


def test_a_429_is_refused_and_all_else_has_failed() -> None:
    one = Measurement(Load(rate=1.0), 1.0, np.array([]), None, {"429": 3, "500": 2, "timeout": 1}, 0.0)
    assert (one.answered, one.refused, one.failed) == (0, 3, 3)


def test_the_best_load_has_the_most_answers_a_second() -> None:
    slow, fast = measured(0.1, 0.1, seconds=2), measured(0.1, 0.1, seconds=1)
    assert best([slow, fast]) is fast
