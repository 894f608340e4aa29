from __future__ import annotations

import numpy as np
import pytest

from embedway.comparison.deviation import deviation


def vectors(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float32)


def test_vectors_of_any_length_that_point_the_same_way_do_not_deviate() -> None:
    found = deviation(vectors([3, 4], [0, 1]), vectors([0.6, 0.8], [0, 7]))
    assert found.worst_cosine == pytest.approx(1, abs=1e-7)
    assert found.max_difference < 1e-7
    assert found.is_explained("float32")


def test_the_worst_vector_is_named() -> None:
    found = deviation(vectors([1, 0], [1, 1], [1, 0]), vectors([1, 0], [1, 0], [1, 0]))
    assert found.worst == 1
    assert found.worst_cosine == pytest.approx(np.sqrt(0.5))
    assert found.mean_cosine == pytest.approx((2 + np.sqrt(0.5)) / 3)
    assert found.max_difference == pytest.approx(np.sqrt(0.5))
    assert not found.is_explained("bfloat16")


def test_what_a_16_bit_type_explains_is_no_excuse_in_float32() -> None:
    found = deviation(vectors([1, 0.1]), vectors([1, 0]))
    assert found.is_explained("bfloat16")
    assert not found.is_explained("float32")


def test_a_vector_that_is_not_finite_or_zero_deviates() -> None:
    assert not deviation(vectors([np.nan, 0]), vectors([1, 0])).is_explained("bfloat16")
    assert not deviation(vectors([0, 0]), vectors([1, 0])).is_explained("bfloat16")


def test_vectors_of_another_dimension_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="shape"):
        deviation(vectors([1, 0, 0]), vectors([1, 0]))
