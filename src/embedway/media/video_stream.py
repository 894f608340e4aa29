"""A video's stream of frames, from memory: what its packets say, and the frames that are shown at given times.

Times are integers in the stream's own unit (`time_base`), so that they can be compared.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, islice

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from embedway.media.limits import MediaLimits
from embedway.media.refusal import MediaRefused


class NotAKeyframe(MediaRefused):
    """A packet that is marked as one needs frames before it: the stream has to be decoded from its beginning."""


@dataclass(frozen=True, slots=True)
class Packets:
    """What the packets of a stream say, without decoding any."""

    times: list[int]
    """When each frame is shown, ascending"""
    places: list[int]
    """The place of each one's packet in the stream"""
    keyframes: list[int]
    """Those of `times` whose frame needs no other, ascending"""
    end: int
    """When the last frame's time is over"""


@dataclass(frozen=True, slots=True)
class Run:
    """Packets that are decoded one after another, from a keyframe to the last one that is wanted."""

    first: int
    last: int
    keyframe: int
    """The time of its first frame"""


@dataclass(frozen=True, slots=True)
class OpenVideo:
    """A container and the stream in it that is looked at."""

    file: InputContainer
    stream: VideoStream


@contextmanager
def opened_video(data: bytes, container: str, limits: MediaLimits) -> Generator[OpenVideo]:
    """Open a file in memory as a container format. Raises MediaRefused where it has no video."""
    options = {
        "protocol_whitelist": "none",  # whatever other files and hosts a container names, none is opened
        "max_pixels": str(limits.max_image_pixels),  # the codec's own check, also of its hidden margins
    }
    with av.open(io.BytesIO(data), "r", format=container, options=options, metadata_errors="replace") as file:
        moving = [stream for stream in file.streams.video if not stream.disposition & Disposition.attached_pic]
        if not moving:
            raise MediaRefused("it has no video")
        stream = moving[0]
        if stream.codec_context is None:
            raise MediaRefused("its codec is not known here")
        stream.codec_context.thread_count = 1  # workers are the parallelism
        yield OpenVideo(file, stream)


def read_packets(video: OpenVideo, limits: MediaLimits) -> Packets:
    """Read all packets of a stream. Raises MediaRefused as soon as it is too long."""
    frames: dict[int, int] = {}
    keyframes: set[int] = set()
    end = 0
    longest = limits.max_video_seconds / time_base_of(video)
    for place, packet in enumerate(video.file.demux(video.stream)):
        time = packet.dts if packet.pts is None else packet.pts
        if time is None or packet.is_discard:
            continue
        frames[time] = place
        end = max(end, time + (packet.duration or 0))
        if packet.is_keyframe:
            keyframes.add(time)
        if end - min(time, next(iter(frames))) > longest:
            raise too_long(limits)
    times = sorted(frames)
    return Packets(times, [frames[time] for time in times], sorted(keyframes), end)


def time_base_of(video: OpenVideo) -> float:
    """Seconds of one unit of the stream's times."""
    if not video.stream.time_base:
        raise MediaRefused("its frames have no times")
    return float(video.stream.time_base)


def too_long(limits: MediaLimits) -> MediaRefused:
    return MediaRefused("is too long", limit=f"{limits.max_video_seconds:g} seconds", flag="--max-video-seconds")


def runs_of(packets: Packets, wanted: Sequence[int]) -> list[Run]:
    """The least packets with which the frames at `wanted` (indices, ascending) can be decoded."""
    runs: list[Run] = []
    for index in wanted:
        place = packets.places[index]
        first, keyframe = _keyframe_before(packets, packets.times[index])
        if runs and first <= runs[-1].last:
            runs[-1] = replace(runs[-1], last=max(runs[-1].last, place))
        else:
            runs.append(Run(first, place, keyframe))
    return runs


def whole(packets: Packets) -> list[Run]:
    """All packets, whatever they say of keyframes."""
    return [Run(0, max(packets.places), packets.end)]


def _keyframe_before(packets: Packets, time: int) -> tuple[int, int]:
    """Place and time of the last keyframe that is shown by then."""
    number = bisect_right(packets.keyframes, time) - 1
    if number < 0:
        return 0, time
    keyframe = packets.keyframes[number]
    return packets.places[bisect_right(packets.times, keyframe) - 1], keyframe


def frames_shown_at(video: OpenVideo, times: Sequence[int], runs: Sequence[Run]) -> Iterator[VideoFrame]:
    """For each time, ascending, the last frame that is shown by then. Raises NotAKeyframe."""
    waiting = deque(times)
    shown: VideoFrame | None = None
    for frame in _decoded(video, runs):
        time = _time(frame)
        while waiting and waiting[0] < time:
            waiting.popleft()
            yield frame if shown is None else shown
        shown = frame
        while waiting and waiting[0] == time:
            waiting.popleft()
            yield frame
        if not waiting:
            return
    if shown is None:
        raise MediaRefused("it has no frames")
    yield from [shown] * len(waiting)


def _decoded(video: OpenVideo, runs: Sequence[Run]) -> Iterator[VideoFrame]:
    """The frames of all runs. The packets between them are read and dropped, which takes next to nothing and, unlike
    seeking, lands where it should in every container."""
    packets = video.file.demux(video.stream)
    place = 0
    for run in runs:
        if place:
            video.stream.codec_context.flush_buffers()  # it was drained, and takes packets again only then
        yield from _decoded_run(video.stream, islice(packets, run.first - place, run.last + 1 - place), run)
        place = run.last + 1


def _decoded_run(stream: VideoStream, packets: Iterable[Packet], run: Run) -> Iterator[VideoFrame]:
    rest: tuple[None] = (None,)  # drains the codec
    frames = chain.from_iterable(stream.codec_context.decode(packet) for packet in chain(packets, rest))
    first = next(frames, None)
    if first is None or _time(first) > run.keyframe:
        raise NotAKeyframe("none of its frames can be decoded")
    yield first
    yield from frames


def _time(frame: VideoFrame) -> int:
    time = frame.dts if frame.pts is None else frame.pts
    if time is None:
        raise MediaRefused("its frames have no times")
    return time
