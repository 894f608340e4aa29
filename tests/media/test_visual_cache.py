from __future__ import annotations

import numpy as np

from embedway.media.visual_cache import VisualCache, key_of
from embedway.visual import Visual

A, B, C = (key_of("image", data) for data in (b"a", b"b", b"c"))


def visual(num_bytes: int = 300) -> Visual:
    return Visual("image", np.zeros((1, 1, num_bytes // 3, 3), dtype=np.uint8), 1)


def test_the_least_recently_used_goes_first() -> None:
    cache = VisualCache(max_bytes=600)
    kept, other, third = visual(), visual(), visual()
    cache.put(A, kept)
    cache.put(B, other)
    assert cache.get(A) is kept
    cache.put(C, third)
    assert (cache.get(A), cache.get(B), cache.get(C)) == (kept, None, third)
    assert (cache.num_bytes, cache.hits, cache.misses) == (600, 3, 1)


def test_what_is_larger_than_the_cache_drives_nothing_out() -> None:
    cache = VisualCache(max_bytes=600)
    kept = visual()
    cache.put(A, kept)
    cache.put(B, visual(900))
    assert cache.get(A) is kept
    assert cache.get(B) is None


def test_the_same_entry_is_counted_once() -> None:
    cache = VisualCache(max_bytes=600)
    cache.put(A, visual())
    cache.put(A, visual())
    assert cache.num_bytes == 300


def test_a_cleared_cache_is_empty() -> None:
    cache = VisualCache(max_bytes=600)
    cache.put(A, visual())
    cache.clear()
    assert (cache.get(A), cache.num_bytes) == (None, 0)


def test_a_gif_as_an_image_is_not_the_same_as_a_video() -> None:
    assert key_of("image", b"GIF89a") != key_of("video", b"GIF89a")
