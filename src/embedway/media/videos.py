"""The bytes of a video → a Visual: the frames that a model's VideoSpec asks for, each resized as soon as it is decoded.

Two passes: over the packets, whose times say which frames are wanted, then over those that these frames need. So memory
holds what is kept and what the codec holds, however long the video is. An animated GIF is a video too; one with a
single picture is a video of one frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import av
import msgspec
import numpy as np
from av.video.frame import VideoFrame
from PIL import Image

from embedway.media.containers import container_of, is_still_image
from embedway.media.frame_choice import chosen_frames
from embedway.media.images import Pixels, check_pixels, check_target
from embedway.media.limits import MediaLimits
from embedway.media.pixels import Size, num_tokens, resized, target_size, target_size_of_all
from embedway.media.refusal import MediaRefused
from embedway.media.video_stream import (
    NotAKeyframe,
    OpenVideo,
    Packets,
    Run,
    frames_shown_at,
    opened_video,
    read_packets,
    runs_of,
    time_base_of,
    too_long,
    whole,
)
from embedway.model_spec import VideoSpec
from embedway.visual import Visual

AV_TIME_BASE = 1_000_000
TURNS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}
"""Counterclockwise, as both FFmpeg and Pillow count"""


def decode_video(data: bytes, spec: VideoSpec, limits: MediaLimits) -> Visual:
    """Decode the frames that a model reads. Raises MediaRefused."""
    container = container_of(data)
    if container is None:
        raise MediaRefused(_not_a_video(data))
    spec = _overridden(spec, limits)
    try:
        return _visual(data, container, spec, limits)
    except (MediaRefused, MemoryError):
        raise
    except av.FFmpegError as error:
        raise MediaRefused(f"the video is broken ({error.strerror})") from error
    except Exception as error:  # what PyAV makes of values that no whole file has
        raise MediaRefused(f"the video is broken ({type(error).__name__})") from error


def _not_a_video(data: bytes) -> str:
    if is_still_image(data):
        return "it is an image: send it as 'image'"
    return "it is not an MP4, MOV, WebM, Matroska, AVI, FLV, MPEG, Ogg or GIF video"


def _overridden(spec: VideoSpec, limits: MediaLimits) -> VideoSpec:
    """The operator's choice instead of the model's."""
    fps = limits.video_fps or spec.fps
    max_frames = limits.video_max_frames or spec.max_frames
    return msgspec.structs.replace(spec, fps=fps, max_frames=max_frames, min_frames=min(spec.min_frames, max_frames))


def _visual(data: bytes, container: str, spec: VideoSpec, limits: MediaLimits) -> Visual:
    with opened_video(data, container, limits) as video:
        _check_header(video, limits)
        unit = time_base_of(video)
        packets = read_packets(video, limits)
    if not packets.times:
        raise MediaRefused("it has no frames")
    times = [(time - packets.times[0]) * unit for time in packets.times]
    wanted = chosen_frames(times, unit, _duration(packets, unit), spec)
    frames = [packets.times[index] for index in wanted]
    try:
        pixels, size = _pixels(data, container, spec, limits, frames, runs_of(packets, wanted))
    except (NotAKeyframe, av.FFmpegError):  # what is marked as a keyframe may need others
        pixels, size = _pixels(data, container, spec, limits, frames, whole(packets))
    tokens = num_tokens(spec.pixels, size, len(pixels))
    return Visual("video", pixels, tokens, tuple(times[index] for index in wanted))


def _check_header(video: OpenVideo, limits: MediaLimits) -> None:
    """Refuse by what the file says of itself; the packets and frames are held to the same limits later."""
    codec = video.stream.codec_context
    if not codec.height or not codec.width:  # FFmpeg's own check, by the same limit, forgets the size
        raise MediaRefused(
            "has frames of no size, or of too many pixels",
            limit=f"{limits.max_image_pixels} pixels",
            flag="--max-image-pixels",
        )
    check_pixels(codec.height, codec.width, limits)
    if (video.file.duration or 0) / AV_TIME_BASE > limits.max_video_seconds:
        raise too_long(limits)


def _duration(packets: Packets, unit: float) -> float:
    """Seconds; where the last frame has no length, it has the mean of the others."""
    first, last, count = packets.times[0], packets.times[-1], len(packets.times)
    end = packets.end if packets.end > last else last + (last - first) / max(count - 1, 1)
    return (end - first) * unit


def _pixels(
    data: bytes, container: str, spec: VideoSpec, limits: MediaLimits, times: Sequence[int], runs: Sequence[Run]
) -> tuple[Pixels, Size]:
    with opened_video(data, container, limits) as video:
        return _resized_frames(frames_shown_at(video, times, runs), len(times), spec, limits)


def _resized_frames(
    frames: Iterable[VideoFrame], count: int, spec: VideoSpec, limits: MediaLimits
) -> tuple[Pixels, Size]:
    """uint8 [count, height, width, 3] and the size before cropping, which the first frame decides for all."""
    kept: Pixels = np.empty(0, dtype=np.uint8)
    size = (0, 0)
    for number, frame in enumerate(frames):
        check_pixels(frame.height, frame.width, limits)
        image = _upright(frame)
        if number == 0:
            size = _target_size(spec, (image.height, image.width), count)
            check_target(spec.pixels, size, count, limits)
        pixels = resized(image, size, spec.pixels)
        if number == 0:
            kept = np.empty((count, *pixels.shape), dtype=np.uint8)
        kept[number] = pixels
    return kept, size


def _target_size(spec: VideoSpec, size: Size, num_frames: int) -> Size:
    if spec.is_budget_of_all:
        return target_size_of_all(spec.pixels, size, num_frames)
    return target_size(spec.pixels, size)


def _upright(frame: VideoFrame) -> Image.Image:
    """A frame in RGB, turned as the file says that it is to be shown."""
    image = Image.fromarray(frame.to_ndarray(format="rgb24"))
    turn = TURNS.get(round(frame.rotation / 90) * 90 % 360)
    return image if turn is None else image.transpose(turn)
