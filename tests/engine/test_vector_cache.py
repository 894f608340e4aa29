from __future__ import annotations

from collections import OrderedDict

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedway.engine.vector_cache import ENTRY_BYTES, VectorCache
from embedway.errors import InvalidSetting

DIMENSION = 3
ENTRY = ENTRY_BYTES + 4 * DIMENSION


def vector(value: int) -> npt.NDArray[np.float32]:
    return np.full(DIMENSION, value, dtype=np.float32)


def key(number: int) -> bytes:
    return bytes([number])


steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.lists(st.integers(0, 9), max_size=6, unique=True)),
        st.tuples(st.just("find"), st.lists(st.integers(0, 9), max_size=6)),
        st.tuples(st.just("flush"), st.just([])),
    ),
    max_size=40,
)


@given(st.integers(0, 5), steps)
def test_it_gives_what_an_ordered_dict_of_that_size_would(capacity: int, steps: list[tuple[str, list[int]]]) -> None:
    cache = VectorCache(capacity * ENTRY + ENTRY - 1, DIMENSION)
    expected: OrderedDict[int, int] = OrderedDict()
    for number, (act, keys) in enumerate(steps):
        match act:
            case "put":
                cache.put([key(k) for k in keys], np.array([vector(10 * number + k) for k in keys]).reshape(-1, 3))
                for k in keys:
                    expected[k] = 10 * number + k
                    expected.move_to_end(k)
                while len(expected) > capacity:
                    expected.popitem(last=False)
            case "find":
                found = cache.find([key(k) for k in keys])
                everything = cache.find_all([key(k) for k in keys])
                assert (everything is not None) == (len(found.indices) == len(keys))
                if everything is not None:
                    np.testing.assert_array_equal(everything, found.vectors)
                assert [keys[i] for i in found.indices] == [k for k in keys if k in expected]
                np.testing.assert_array_equal(
                    found.vectors, [vector(expected[keys[i]]) for i in found.indices] or np.empty((0, 3))
                )
                for i in found.indices:
                    expected.move_to_end(keys[i])
            case _:
                cache.flush()
                expected.clear()
        assert len(cache) == len(expected)
        assert cache.num_bytes == len(expected) * ENTRY <= (capacity + 1) * ENTRY


def test_what_was_found_stays_as_it_was_when_its_row_is_another_s() -> None:
    cache = VectorCache(ENTRY, DIMENSION)
    cache.put([key(1)], vector(1)[None])
    found = cache.find([key(1)])
    cache.put([key(2)], vector(2)[None])
    np.testing.assert_array_equal(found.vectors, [vector(1)])


def test_there_is_room_for_as_much_as_is_paid_for_with_keys_and_all() -> None:
    cache = VectorCache(2**20, 384)
    for i in range(1000):
        cache.put([i.to_bytes(16, "little")], np.zeros((1, 384), dtype=np.float32))
    assert 2**20 - (ENTRY_BYTES + 4 * 384) < cache.num_bytes <= 2**20
    assert cache.has_room
    assert not VectorCache(0, 384).has_room


def test_more_memory_than_there_can_be_is_refused_by_the_setting_s_name() -> None:
    with pytest.raises(InvalidSetting, match="--cache-mb"):
        VectorCache.of_setting(2**40, 384)
