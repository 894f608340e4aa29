"""Which frames are read, against Qwen's video processors at constant rates, and by the clock at others."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

from embedway.media.frame_choice import chosen_frames
from embedway.model_spec import VideoSpec
from encoded_media import pixel_spec, video_spec

COUNTS = st.integers(2, 3000)
RATES = st.sampled_from([10.0, 24.0, 25.0, 30000 / 1001, 30.0, 60.0])
PAIRS = pixel_spec(temporal_patch_size=2)


def constant(count: int, rate: float, spec: VideoSpec) -> list[int]:
    return chosen_frames([number / rate for number in range(count)], 0.0001, count / rate, spec)


@given(count=COUNTS, rate=RATES)
def test_qwen2s_frames_begin_equal_shares(count: int, rate: float) -> None:
    """`Qwen2VLVideoProcessor.sample_frames` in whole numbers: it cannot be imported without torchvision."""
    wanted = int(min(max(count / rate * 2.0 + 0.01, 4), count // 2 * 2, 768)) // 2 * 2
    expected = [number * count // wanted for number in range(wanted)]
    assert constant(count, rate, video_spec(PAIRS)) == expected


@given(count=COUNTS, rate=RATES)
def test_qwen3s_frames_reach_from_the_first_to_the_last(count: int, rate: float) -> None:
    wanted = count / rate * 2
    assume(wanted == round(wanted) or abs(wanted - round(wanted)) > 0.02)  # ours forgives a hundredth of a frame
    spec = msgspec.structs.replace(video_spec(PAIRS), includes_last=True)
    sampler = SimpleNamespace(fps=2, min_frames=4, max_frames=768)
    metadata = SimpleNamespace(total_num_frames=count, fps=rate)
    expected = Qwen3VLVideoProcessor.sample_frames(sampler, metadata)  # ty: ignore[invalid-argument-type]
    assert constant(count, rate, spec) == expected.tolist()


def test_a_variable_rate_is_followed_by_the_clock() -> None:
    """Nine frames in the first second and one for the other nine: most of the video is that one."""
    times = [number / 9 for number in range(9)] + [1.0]
    spec = video_spec(pixel_spec(), fps=1.0)
    assert chosen_frames(times, 0.001, 10.0, spec) == [0, *[9] * 9]


@pytest.mark.parametrize("includes_last", [False, True])
def test_times_in_whole_milliseconds_change_nothing(includes_last: bool) -> None:
    spec = msgspec.structs.replace(video_spec(PAIRS), includes_last=includes_last)
    rounded = [round(number / 30, 3) for number in range(300)]
    assert chosen_frames(rounded, 0.001, 10.0, spec) == constant(300, 30.0, spec)


@pytest.mark.parametrize(("count", "expected"), [(1, [0]), (2, [0, 1]), (3, [0, 1]), (5, [0, 1, 2, 3])])
def test_short_videos_give_whole_temporal_patches_where_they_can(count: int, expected: list[int]) -> None:
    assert constant(count, 30.0, video_spec(PAIRS)) == expected


def test_no_more_frames_are_read_than_allowed() -> None:
    assert len(constant(3000, 30.0, video_spec(PAIRS, max_frames=7))) == 6
