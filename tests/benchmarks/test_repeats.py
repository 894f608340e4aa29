from __future__ import annotations

import itertools
import random

from benchmarks.repeats import RECENT, with_repeats


def test_every_second_text_was_sent_before_and_some_just_now() -> None:
    sent = list(itertools.islice(with_repeats(map(str, itertools.count()), random.Random(0)), 4000))
    assert len(set(sent[::2])) == 2000
    distances = [i - sent.index(sent[i]) for i in range(1, 4000, 2)]
    assert min(distances) > 0
    assert 400 < sum(distance < 2 * RECENT for distance in distances) < 700
