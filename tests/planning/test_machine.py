from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from embedway.errors import InvalidSetting
from embedway.planning.machine import measure, of_bench

if TYPE_CHECKING:
    from pathlib import Path


def load(concurrency: int | None, milliseconds: float) -> dict[str, Any]:
    """So many requests of 12 tokens at a time, all answered in the same time."""
    rate = (concurrency or 1) * 1000 / milliseconds
    return {
        "concurrency": concurrency,
        "answered": 100,
        "requests_per_second": rate,
        "tokens_per_second": 12 * rate,
    }


def test_the_closed_loads_of_a_bench_give_the_line_of_a_batch(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    loads = [load(count, 2.0 + 0.1 * 12 * count) for count in (1, 4, 16)] + [load(None, 1000.0)]
    file.write_text(json.dumps({"items_per_request": 1, "loads": loads}))
    costs = of_bench(file)
    assert costs.predict(12, 144) == pytest.approx(3.2, rel=0.02)
    assert costs.predict(192, 16 * 144) == pytest.approx(21.2, rel=0.02)
    assert costs.per_square == 0


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is not what"),
        ("[]", "is not what"),
        (json.dumps({"items_per_request": 1, "loads": [load(4, 9.0)]}), "fewer than two closed loads"),
        (None, "cannot read"),
    ],
)
def test_what_is_no_bench_is_refused(tmp_path: Path, content: str | None, says: str) -> None:
    file = tmp_path / "bench.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InvalidSetting, match=says):
        of_bench(file)


def test_a_model_is_measured_as_the_server_does_at_its_start() -> None:
    costs = measure("sentence-transformers/all-MiniLM-L6-v2")
    assert costs.predict(2000, 20 * 100**2) > costs.predict(12, 12**2) > 0
