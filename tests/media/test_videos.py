"""Videos of every container: the right frames, upright, at their times; and files that are no videos."""

from __future__ import annotations

import io
import struct
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import msgspec
import numpy as np
import pytest
from PIL import Image

from embedway.media import videos
from embedway.media.images import decode_image
from embedway.media.refusal import MediaRefused
from embedway.media.video_stream import NotAKeyframe, OpenVideo, Run, opened_video
from embedway.media.videos import decode_video
from embedway.model_spec import VideoSpec
from encoded_media import CLIP, LIMITS, counting_frames, noise, pixel_spec, png, saved, sound, video, video_spec

AS_IT_IS = pixel_spec("none")
TWO_A_SECOND = video_spec(AS_IT_IS)
CONTAINERS = [
    ("matroska", "ffv1", "bgr0"),
    ("mp4", "libx264", "yuv420p"),
    ("mov", "mpeg4", "yuv420p"),
    ("webm", "libvpx", "yuv420p"),
    ("avi", "mpeg4", "yuv420p"),
    ("mpegts", "libx264", "yuv420p"),
    ("mpeg", "mpeg1video", "yuv420p"),
    ("flv", "flv1", "yuv420p"),
    ("gif", "gif", "rgb8"),
]


def all_frames(data: bytes) -> list[np.ndarray]:
    """Every frame, decoded one after the other."""
    with av.open(io.BytesIO(data)) as file:
        return [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]


@pytest.mark.parametrize(("container", "codec", "pix_fmt"), CONTAINERS)
def test_sampled_frames_are_those_of_a_whole_decode(container: str, codec: str, pix_fmt: str) -> None:
    """30 frames a second, a keyframe every 12: most frames between the sampled ones are never decoded."""
    moving = (np.roll(noise(64, 96), 3 * number, axis=1) for number in range(120))
    data = video(moving, container=container, codec=codec, pix_fmt=pix_fmt)
    visual = decode_video(data, TWO_A_SECOND, LIMITS)
    assert np.array_equal(visual.pixels, np.stack(all_frames(data)[::15]))
    assert visual.timestamps == pytest.approx([number / 2 for number in range(8)], abs=0.011)
    assert (visual.kind, visual.num_tokens) == ("video", 8 * 4 * 6)


def test_a_stream_that_lies_about_its_keyframes_is_decoded_from_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    data = video(counting_frames(60))
    expected = decode_video(data, TWO_A_SECOND, LIMITS).pixels
    runs_seen = []

    def only_the_whole_stream(opened: OpenVideo, times: Sequence[int], runs: Sequence[Run]) -> Iterator[av.VideoFrame]:
        runs_seen.append(runs)
        if len(runs) > 1:
            raise NotAKeyframe("none of its frames can be decoded")
        return real(opened, times, runs)

    real = videos.frames_shown_at
    monkeypatch.setattr(videos, "frames_shown_at", only_the_whole_stream)
    assert np.array_equal(decode_video(data, TWO_A_SECOND, LIMITS).pixels, expected)
    assert [len(runs) for runs in runs_seen] == [4, 1]


def test_intra_refresh_without_keyframes_gives_the_frames_of_a_whole_decode() -> None:
    moving = (np.roll(noise(64, 96), 3 * number, axis=1) for number in range(120))
    options = {"x264-params": "intra-refresh=1:keyint=12"}
    data = video(moving, container="mpegts", codec="libx264", pix_fmt="yuv420p", options=options)
    assert np.array_equal(decode_video(data, TWO_A_SECOND, LIMITS).pixels, np.stack(all_frames(data)[::15]))


def test_a_video_of_one_repeated_frame_has_the_images_pixels() -> None:
    pixels = noise(200, 300)
    image = decode_image(saved(Image.fromarray(pixels), "PNG"), CLIP, LIMITS)
    visual = decode_video(video([pixels] * 60), video_spec(CLIP), LIMITS)
    assert np.array_equal(visual.pixels, np.repeat(image.pixels, 4, axis=0))
    assert visual.num_tokens == 4 * image.num_tokens


def test_a_moving_video_differs_from_a_still_one() -> None:
    visual = decode_video(video(counting_frames(60)), TWO_A_SECOND, LIMITS)
    assert [frame[0, 0, 0] for frame in visual.pixels] == [0, 30, 60, 90]


def test_a_variable_rate_is_followed_by_the_clock() -> None:
    times = [0, 10, 20, 30, 40, 50, 1000, 2000, 2500, 3000]
    data = video(counting_frames(10), times=times)
    visual = decode_video(data, video_spec(AS_IT_IS, fps=1.0, min_frames=1), LIMITS)
    assert [frame[0, 0, 0] // 2 for frame in visual.pixels] == [0, 6, 7]
    assert visual.timestamps == (0.0, 1.0, 2.0)


def turned(data: bytes, matrix: tuple[int, int, int, int]) -> bytes:
    """An MP4 whose track header says how it is to be turned."""
    start = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (value * 0x10000 for value in matrix)
    return data[:start] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000) + data[start + 36 :]


@pytest.mark.parametrize(
    ("matrix", "clockwise_quarters"),
    [
        ((1, 0, 0, 1), 0),
        ((0, 1, -1, 0), 1),
        ((-1, 0, 0, -1), 2),
        ((0, -1, 1, 0), 3),
    ],
)
def test_a_phones_video_is_turned_upright(matrix: tuple[int, int, int, int], clockwise_quarters: int) -> None:
    data = video([noise(32, 48)] * 4, container="mp4", codec="mpeg4", pix_fmt="yuv420p")
    upright = decode_video(turned(data, matrix), TWO_A_SECOND, LIMITS).pixels
    lying = decode_video(data, TWO_A_SECOND, LIMITS).pixels
    assert np.array_equal(upright, np.rot90(lying, -clockwise_quarters, axes=(1, 2)))


def test_an_animated_gif_is_a_video_and_a_still_one_a_video_of_one_frame() -> None:
    pictures = [Image.fromarray(pixels) for pixels in counting_frames(100)][::25]
    moving = saved(pictures[0], "GIF", save_all=True, append_images=pictures[1:], duration=500)
    assert len(decode_video(moving, TWO_A_SECOND, LIMITS).pixels) == 4
    assert len(decode_video(saved(pictures[0], "GIF"), TWO_A_SECOND, LIMITS).pixels) == 1


def test_ten_thousand_frames_take_no_more_memory_than_those_that_are_kept() -> None:
    data = video(
        counting_frames(10_000, height=128, width=128), container="mp4", codec="mpeg4", pix_fmt="yuv420p", gop=250
    )
    spec = video_spec(pixel_spec("exact", height=64, width=64), max_frames=32)
    tracemalloc.start()
    visual = decode_video(data, spec, LIMITS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(visual.pixels) == 32
    assert peak - len(data) < 12 << 20  # all frames would be 490 MB, and their resized pixels 123 MB


def test_the_operator_may_choose_other_frames() -> None:
    data = video(counting_frames(120))
    limits = msgspec.structs.replace(LIMITS, video_fps=5.0)
    assert len(decode_video(data, TWO_A_SECOND, limits).pixels) == 20
    limits = msgspec.structs.replace(LIMITS, video_max_frames=3)
    assert len(decode_video(data, TWO_A_SECOND, limits).pixels) == 3


def test_the_pixels_of_all_frames_share_qwen3s_budget() -> None:
    pixels = pixel_spec("smart", merge_size=2, temporal_patch_size=2, min_pixels=32 * 32, max_pixels=16 * 64 * 64)
    spec = VideoSpec(pixels=pixels, is_budget_of_all=True, includes_last=True, fps=8, min_frames=4, max_frames=768)
    visual = decode_video(video([noise(256, 256)] * 60), spec, LIMITS)
    assert visual.pixels.shape == (16, 64, 64, 3)
    assert visual.num_tokens == 8 * 4


MP4 = video(counting_frames(60), container="mp4", codec="mpeg4", pix_fmt="yuv420p")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "not an MP4"),
        (b"hello, world", "not an MP4"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "not an MP4"),
        (png(), "send it as 'image'"),
        (saved(Image.new("RGB", (8, 8)), "JPEG"), "send it as 'image'"),
        (sound("matroska"), "has no video"),
        (sound("mp4"), "has no video"),
        (MP4[: len(MP4) // 2], "broken"),
        (MP4[:40], "broken"),
        (b"\x1a\x45\xdf\xa3" + b"\0" * 1000, "broken"),
        (b"GIF89a", "broken"),
    ],
)
def test_what_is_no_whole_video_is_refused_in_words(data: bytes, problem: str) -> None:
    with pytest.raises(MediaRefused, match=problem) as refused:
        decode_video(data, TWO_A_SECOND, LIMITS)
    assert not refused.value.refusal.limit


@pytest.mark.parametrize(("container", "codec", "pix_fmt"), CONTAINERS)
@pytest.mark.parametrize("seed", range(3))
def test_damaged_videos_are_read_or_refused(container: str, codec: str, pix_fmt: str, seed: int) -> None:
    data = bytearray(video(counting_frames(30), container=container, codec=codec, pix_fmt=pix_fmt))
    random = np.random.default_rng(seed)
    for place in random.integers(16, len(data), 30):
        data[place] = random.integers(256)
    try:
        visual = decode_video(bytes(data), TWO_A_SECOND, LIMITS)
    except MediaRefused:
        return
    assert visual.pixels.shape[0] >= 1


def test_no_other_file_is_opened_even_by_a_container_that_names_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FFmpeg's concat scripts name files. `container_of` never chooses that format; if it did, nothing would come."""
    (tmp_path / "secret.mp4").write_bytes(MP4)
    monkeypatch.chdir(tmp_path)
    script = b"ffconcat version 1.0\nfile secret.mp4\n"
    with av.open(io.BytesIO(script), format="concat") as file:
        assert file.streams.video
    with pytest.raises(av.FFmpegError), opened_video(script, "concat", LIMITS):
        pass


def test_too_long_a_video_is_refused() -> None:
    limits = msgspec.structs.replace(LIMITS, max_video_seconds=1.9)
    for container in ("mp4", "mpegts"):
        data = video(counting_frames(60), container=container, codec="mpeg4", pix_fmt="yuv420p")
        with pytest.raises(MediaRefused, match="too long") as refused:
            decode_video(data, TWO_A_SECOND, limits)
        assert refused.value.refusal.flag == "--max-video-seconds"


def test_a_header_that_lies_about_the_length_does_not_help() -> None:
    place = MP4.index(b"mvhd") + 4 + 16
    lying = MP4[:place] + struct.pack(">I", 1) + MP4[place + 4 :]
    with pytest.raises(MediaRefused, match="too long"):
        decode_video(lying, TWO_A_SECOND, msgspec.structs.replace(LIMITS, max_video_seconds=1.9))


def test_too_large_frames_are_refused() -> None:
    limits = msgspec.structs.replace(LIMITS, max_image_pixels=32 * 48 - 1)
    with pytest.raises(MediaRefused, match="too many pixels") as refused:
        decode_video(MP4, TWO_A_SECOND, limits)
    assert refused.value.refusal.flag == "--max-image-pixels"


def test_more_tokens_than_a_sequence_holds_are_refused_before_the_frames_are_kept() -> None:
    limits = msgspec.structs.replace(LIMITS, max_tokens=23)
    with pytest.raises(MediaRefused, match="takes 24 tokens"):
        decode_video(MP4, TWO_A_SECOND, limits)
