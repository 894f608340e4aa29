"""What a decode worker and its API process send each other: frames of a msgpack header and a raw body.

    uint32 header bytes · uint64 body bytes · header · body

Down: one Setup, answered by READY, then a Job for each item, with its file as body. Up: a Decoded with the pixels as
body, or a Refusal.
"""

from __future__ import annotations

import struct
from typing import TypeAlias

import msgspec

from embedway.media.limits import MediaLimits
from embedway.media.refusal import Refusal
from embedway.model_spec import VisionSpec
from embedway.visual import MediaKind

LENGTHS = struct.Struct("<IQ")
READY = b"R"
"""A worker's first byte"""


class Setup(msgspec.Struct, frozen=True):
    """What holds for all jobs of a worker."""

    vision: VisionSpec
    limits: MediaLimits


class Job(msgspec.Struct, frozen=True):
    """An image or a video to decode; the body is its file."""

    kind: MediaKind


class Decoded(msgspec.Struct, frozen=True, tag=True):
    """A Visual without its pixels, which are the body: uint8 of this shape."""

    shape: tuple[int, int, int, int]
    num_tokens: int
    timestamps: tuple[float, ...]


Answer: TypeAlias = Decoded | Refusal


def lengths_and_header(message: msgspec.Struct, num_body_bytes: int) -> bytes:
    """The part of a frame before its body."""
    header = msgspec.msgpack.encode(message)
    return LENGTHS.pack(len(header), num_body_bytes) + header
