"""Which frames of a video a model reads, from the times at which its frames are shown."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

from embedway.model_spec import VideoSpec


def chosen_frames(times: Sequence[float], unit: float, duration: float, spec: VideoSpec) -> list[int]:
    """Indices into `times` (ascending, seconds, starting at 0, rounded to units), ascending; one may stand there twice.

    They are those of Qwen's video processors where the frame rate is constant, and follow the clock where it is not.
    """
    count = _num_frames(len(times), duration, spec)
    if _is_constant(
        times, unit, duration
    ):  # then frames themselves are the clock, and no rounding of times is in the way
        times, duration = range(len(times)), len(times)
    if spec.includes_last:
        step = times[-1] / max(count - 1, 1)
        return [_nearest(times, number * step) for number in range(count)]
    return [_shown_at(times, number * duration / count) for number in range(count)]


def _is_constant(times: Sequence[float], unit: float, duration: float) -> bool:
    step = times[-1] / max(len(times) - 1, 1)
    lasts_as_long = abs(duration - len(times) * step) <= 2 * unit  # the last frame, as the others
    return lasts_as_long and all(abs(time - number * step) <= 1.01 * unit for number, time in enumerate(times))


def _num_frames(available: int, duration: float, spec: VideoSpec) -> int:
    wanted = duration * spec.fps + 0.01  # a duration whose milliseconds were rounded costs no frame
    if spec.includes_last:
        return max(min(max(int(wanted), spec.min_frames), spec.max_frames, available), 1)
    patch = spec.pixels.temporal_patch_size
    most = math.floor(min(spec.max_frames, available) / patch) * patch
    count = math.floor(min(max(wanted, spec.min_frames), most) / patch) * patch
    return max(count, 1)  # a lone frame is repeated by the model to fill its patch


def _shown_at(times: Sequence[float], moment: float) -> int:
    """The frame on the screen at a moment."""
    return max(bisect_right(times, moment) - 1, 0)


def _nearest(times: Sequence[float], moment: float) -> int:
    """Half way between two it is the even one, as numpy rounds."""
    after = min(bisect_right(times, moment), len(times) - 1)
    before = max(after - 1, 0)
    to_before, to_after = moment - times[before], times[after] - moment
    if to_before == to_after:
        return before if before % 2 == 0 else after
    return before if to_before < to_after else after
