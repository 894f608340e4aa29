"""What a body worker and its API process send each other over a socket: frames of a msgpack header and raw blobs.

    uint32 header bytes · uint64 blob bytes · header · blobs

Down: a Job, with the body as its blob. Up: a Parsed, whose blobs are its texts, media
and token ids, or a Refused. Long values travel as blobs: each is made into an object by itself, which holds Python's
lock for a moment only.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, BinaryIO, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from embedway import errors
from embedway.api.body_forms import BodyRules, ReadItems
from embedway.errors import EmbedwayError
from embedway.inputs.items import Items
from embedway.inputs.token_ids import ArrayOfIds
from embedway.visual import MediaKind, MediaRef

LENGTHS = struct.Struct("<IQ")
PIECE = 2**17
"""Characters made into bytes or a string at once"""
PROMPT = "prompt"
"""The one field beside the items that may be long"""
_OBJECTS = "objects"
"""Integers of which some are negative and some beyond 63 bits: msgpack"""


class Job(msgspec.Struct, frozen=True):
    """A body to parse; the blob is its bytes."""

    form: str
    """A key of `body_forms.FORMS`"""
    rules: BodyRules


class Refused(msgspec.Struct, frozen=True, tag=True):
    """An EmbedwayError."""

    name: str
    message: str
    param: str | None

    @classmethod
    def of(cls, error: EmbedwayError) -> Refused:
        return cls(type(error).__name__, error.message, error.param)

    def error(self) -> EmbedwayError:
        return getattr(errors, self.name).said(self.message, self.param)


class Media(msgspec.Struct, frozen=True):
    """A MediaRef without what was given, which is a blob."""

    item: int
    kind: MediaKind
    param: str


class ParsedItems(msgspec.Struct, frozen=True, tag=True):
    """Items without their values. Blobs are those of the instruction, of the texts or token ids, and of the media."""

    field: str
    is_single: bool
    key: str
    instruction_bytes: list[int] | None
    """Of the pieces of the instruction"""
    text_bytes: list[list[int]]
    """Of the pieces of each"""
    id_lists: list[tuple[str, int, int]]
    """Of each its type, its length, and the bytes of what is sent of it"""
    media: list[Media]
    media_bytes: list[list[int]]


class Parsed(msgspec.Struct, frozen=True, tag=True):
    """A body whose fields are as they should be. The prompt is the first blob, where there is one."""

    fields: dict[str, Any]
    """Those that were given, without the prompt and those of the items"""
    items: ParsedItems | Refused | None
    prompt_bytes: list[int] | None
    """Of its pieces; None: it was not given, or is no text"""


Answer: TypeAlias = Parsed | Refused
Blob: TypeAlias = bytes


# ── the worker's side ─────────────────────────────────────────────────────────────────────────────────────────────────


def packed_items(
    items: Items, instruction: str | None, *, longest_text: int, longest_ids: int
) -> tuple[ParsedItems, list[Blob]]:
    """Of a text or a list that is more than twice as long, only its two ends are sent, each so long."""
    instructing = None if instruction is None else text_pieces(instruction, longest_text)
    texts = [text_pieces(text, longest_text) for text in items.texts]
    lists = [_packed_ids(ids, longest_ids) for ids in items.token_ids]
    refs = [(i, ref) for i, own in items.media.items() for ref in own]
    given = [_pieces(ref.given) for _, ref in refs]
    parsed = ParsedItems(
        field=items.field,
        is_single=items.is_single,
        key=items.key,
        instruction_bytes=None if instructing is None else list(map(len, instructing)),
        text_bytes=[list(map(len, pieces)) for pieces in texts],
        id_lists=[(kind, len(ids), len(blob)) for (kind, blob), ids in zip(lists, items.token_ids, strict=True)],
        media=[Media(i, ref.kind, ref.param) for i, ref in refs],
        media_bytes=[list(map(len, pieces)) for pieces in given],
    )
    return parsed, [*(instructing or ()), *chain(*texts), *(blob for _, blob in lists), *chain(*given)]


def text_pieces(text: str, longest: int) -> list[bytes]:
    """Of a text of which at most so many characters of either end are looked at"""
    return _pieces(_ends(text, longest))


def _ends(values: Any, longest: int) -> Any:
    return values if len(values) <= 2 * longest else values[:longest] + values[-longest:]


def _pieces(text: str) -> list[bytes]:
    return [text[start : start + PIECE].encode() for start in range(0, len(text), PIECE)]


def _packed_ids(ids: Sequence[int], longest: int) -> tuple[str, Blob]:
    kept = _ends(ids, longest)
    largest = max(kept)
    if largest < 2**63:
        return "<i8", np.array(kept, "<i8").tobytes()
    if largest < 2**64 and min(kept) >= 0:
        return "<u8", np.array(kept, "<u8").tobytes()
    return _OBJECTS, msgspec.msgpack.encode(kept)


# ── the API process's side ────────────────────────────────────────────────────────────────────────────────────────────


def read_items(parsed: ParsedItems, stream: BinaryIO) -> ReadItems:
    """Read the blobs, one after the other. Raises EOFError."""
    instruction = None if parsed.instruction_bytes is None else read_text(stream, parsed.instruction_bytes)
    texts = [read_text(stream, sizes) for sizes in parsed.text_bytes]
    token_ids = [
        ArrayOfIds(_unpacked_ids(kind, read_exactly(stream, num_bytes)), length)
        for kind, length, num_bytes in parsed.id_lists
    ]
    media: dict[int, tuple[MediaRef, ...]] = {}
    for one, sizes in zip(parsed.media, parsed.media_bytes, strict=True):
        ref = MediaRef(one.kind, read_text(stream, sizes), one.param)
        media[one.item] = (*media.get(one.item, ()), ref)
    items = Items(texts, token_ids, parsed.field, is_single=parsed.is_single, key=parsed.key, media=media)
    return items, instruction


def read_text(stream: BinaryIO, sizes: Sequence[int]) -> str:
    return "".join([str(read_exactly(stream, num_bytes), "utf-8") for num_bytes in sizes])


def _unpacked_ids(kind: str, blob: bytes) -> npt.NDArray[Any]:
    if kind == _OBJECTS:
        return np.array(msgspec.msgpack.decode(blob), object)
    return np.frombuffer(blob, kind)


# ── both ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def write_frame(write: Callable[[Blob], object], message: msgspec.Struct, blobs: Sequence[Blob] = ()) -> None:
    """`write` takes all that it is given."""
    header = msgspec.msgpack.encode(message)
    write(LENGTHS.pack(len(header), sum(map(len, blobs))) + header)
    for blob in blobs:
        write(blob)


def read_header(stream: BinaryIO) -> tuple[bytes, int]:
    """A frame's header, and the bytes of its blobs, which come next. Raises EOFError."""
    num_header_bytes, num_blob_bytes = LENGTHS.unpack(read_exactly(stream, LENGTHS.size))
    return read_exactly(stream, num_header_bytes), num_blob_bytes


def read_exactly(stream: BinaryIO, num_bytes: int) -> bytes:
    """Raises EOFError."""
    data = stream.read(num_bytes)
    if len(data) < num_bytes:
        raise EOFError
    return data
