"""`python -m embedway.media.worker`: decodes one image or video after the other, until stdin ends or it is killed.

What it reads comes from strangers, and the codecs are written in C: it runs with little and may die at any moment.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import resource
import signal
import sys
from typing import BinaryIO

import msgspec

from embedway.media.decode_file import decode_file
from embedway.media.limits import MediaLimits
from embedway.media.refusal import MediaRefused, Refusal
from embedway.media.worker_messages import LENGTHS, READY, Decoded, Job, Setup, lengths_and_header

NICENESS = 5
"""Behind text requests and the model, where cores are few"""
PIPE_BYTES = 1 << 20
"""Of Linux's pipes, which by default hold 64 KiB: an image then takes one turn of the event loop, not several"""
PR_SET_PDEATHSIG = 1
BASE_MEMORY = 2 << 30
"""Address space of Python, FFmpeg and their threads, and room to spare; most of it is never touched"""
MEMORY_PER_PIXEL = 48
"""Bytes: Pillow's copies of an image of 4-byte pixels (read, turned, converted) or a codec's reference frames"""


def main() -> None:
    jobs, answers = _take_over_pipes()
    _die_with_parent()
    setup = _read_setup(jobs)
    _restrict(setup.limits)
    answers.write(READY)
    while frame := _read_frame(jobs):
        header, data = frame
        _answer(answers, msgspec.msgpack.decode(header, type=Job), data, setup)


def _take_over_pipes() -> tuple[BinaryIO, BinaryIO]:
    """stdin and stdout for frames alone; what libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    for descriptor in (0, answers.fileno()):
        with contextlib.suppress(OSError, AttributeError):  # not on macOS, nor where stdin is a socket
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return sys.stdin.buffer, answers


def _die_with_parent() -> None:
    """Also in the middle of a decode, when nobody reads stdin for its end."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _restrict(limits: MediaLimits) -> None:
    os.nice(NICENESS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the supervisor
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    memory = BASE_MEMORY + MEMORY_PER_PIXEL * limits.max_image_pixels + 4 * limits.max_data_bytes
    with contextlib.suppress(ValueError, OSError):  # macOS has no such limit; a stricter one of the operator's stays
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


def _read_setup(jobs: BinaryIO) -> Setup:
    frame = _read_frame(jobs)
    if frame is None:
        sys.exit()
    return msgspec.msgpack.decode(frame[0], type=Setup)


def _read_frame(stream: BinaryIO) -> tuple[bytes, bytes] | None:
    lengths = stream.read(LENGTHS.size)
    if len(lengths) < LENGTHS.size:
        return None
    num_header_bytes, num_body_bytes = LENGTHS.unpack(lengths)
    return stream.read(num_header_bytes), stream.read(num_body_bytes)


def _answer(answers: BinaryIO, job: Job, data: bytes, setup: Setup) -> None:
    try:
        visual = decode_file(job.kind, data, setup.vision, setup.limits)
    except MediaRefused as refused:
        _refuse(answers, refused.refusal)
        return
    except MemoryError:
        _refuse(answers, Refusal("decoding it needs more memory than it may have"))
        return
    pixels = visual.pixels
    frames, height, width, channels = pixels.shape
    decoded = Decoded((frames, height, width, channels), visual.num_tokens, visual.timestamps)
    _write_all(answers, memoryview(lengths_and_header(decoded, pixels.nbytes)))
    _write_all(answers, pixels.ravel().data)


def _refuse(answers: BinaryIO, refusal: Refusal) -> None:
    _write_all(answers, memoryview(lengths_and_header(refusal, 0)))


def _write_all(stream: BinaryIO, data: memoryview) -> None:
    while data:
        data = data[stream.write(data) :]


if __name__ == "__main__":
    main()
