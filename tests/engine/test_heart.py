from __future__ import annotations

from embedway.engine.heart import Heart


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def beats_at(seconds: list[float], *, expected_ms: float | None) -> list[float]:
    """When a heart beats whose run loop took a batch at 0 and is at it still; None: it has no batch."""
    beats: list[float] = []
    clock = Clock()
    heart = Heart(lambda: beats.append(clock.now), clock=clock)
    if expected_ms is not None:
        heart.work(expected_ms)
    for clock.now in seconds:
        heart.beat()
    return beats


def test_an_idle_engine_s_heart_beats_for_ever() -> None:
    assert beats_at([0, 1, 1e9], expected_ms=None) == [0, 1, 1e9]


def test_it_stands_still_once_a_batch_takes_far_longer_than_predicted() -> None:
    assert beats_at([0, 0.1, 0.9, 1.1, 2, 1e9], expected_ms=100) == [0, 0.1, 0.9]


def test_a_long_batch_has_long() -> None:
    assert beats_at([0, 60, 299, 301], expected_ms=30_000) == [0, 60, 299]


def test_it_beats_again_once_a_late_batch_has_ended() -> None:
    beats: list[float] = []
    clock = Clock()
    heart = Heart(lambda: beats.append(clock.now), clock=clock)
    heart.work(expected_ms=100)
    clock.now = 5
    heart.beat()
    heart.rest()
    clock.now = 6
    heart.beat()
    assert beats == [6]
