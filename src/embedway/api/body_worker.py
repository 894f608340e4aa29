"""`python -m embedway.api.body_worker FD`: parses and checks one large body after the other, until the socket ends.

A parser keeps Python's lock from the first byte to the last, whatever thread it runs in: 64 MiB of JSON would stop the
API process's event loop for most of a second. Here it stops nobody.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any, BinaryIO, cast

import msgspec

from embedway.api.body_forms import DETOKENIZE, FORMS, BodyForm, BodyRules, ReadItems
from embedway.api.body_messages import (
    Answer,
    Blob,
    Job,
    Parsed,
    ParsedItems,
    Refused,
    packed_items,
    read_exactly,
    read_header,
    write_frame,
)
from embedway.api.body_parsing import parse_body
from embedway.errors import EmbedwayError, TooMuchToParse

NICENESS = 5
"""Behind the event loop and the model, where cores are few"""
MOST_MEMORY = 2 << 30
"""Bytes. 64 MiB of token ids take 1 GiB; as many brackets would take three"""
LONGEST_ELEMENT = 10_000
"""Characters: a name of a request or an adapter is refused long before"""
UNREAD_FIELDS = frozenset({"user"})
"""They are checked, and not sent back"""


def main() -> None:
    gc.disable()  # JSON makes no cycles, and to look for some in a large body takes as long as to parse it
    os.nice(NICENESS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the supervisor
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(ValueError, OSError):  # macOS has no such limit; a stricter one of the operator's stays
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    stream = cast("BinaryIO", socket.socket(fileno=int(sys.argv[1])).makefile("rwb"))
    with contextlib.suppress(EOFError, ConnectionError):
        serve(stream)


def serve(stream: BinaryIO) -> None:
    """Raises EOFError at the stream's end."""
    while True:
        header, num_bytes = read_header(stream)
        job = msgspec.msgpack.decode(header, type=Job)
        write_frame(stream.write, *answer(read_exactly(stream, num_bytes), FORMS[job.form], job.rules))
        stream.flush()
        gc.collect()


def answer(raw: bytes, form: BodyForm[Any], rules: BodyRules) -> tuple[Answer, Sequence[Blob]]:
    try:
        body = parse_body(raw, form.kind, max_items=rules.max_items)
    except EmbedwayError as error:
        return Refused.of(error), ()
    except MemoryError:
        return Refused.of(TooMuchToParse()), ()
    left_out = UNREAD_FIELDS.union(form.item_fields)
    fields = {name: shallow(getattr(body, name)) for name in body.model_fields_set - left_out}
    if not form.item_fields:
        return Parsed(fields, None), ()
    try:
        items = form.items_of(body, rules)
    except EmbedwayError as error:
        return Parsed(fields, Refused.of(error)), ()
    parsed, blobs = _packed(items, form, rules)
    return Parsed(fields, parsed), blobs


def shallow(value: object) -> object:
    """A field's value with its inner arrays and objects empty: nobody looks further into one than at what they are."""
    if isinstance(value, dict):
        return {}
    if isinstance(value, list):
        return [shallow_element(element) for element in value]
    return value


def shallow_element(element: object) -> object:
    if isinstance(element, str):
        return element[:LONGEST_ELEMENT]
    return type(element)() if isinstance(element, dict | list) else element


def _packed(read: ReadItems, form: BodyForm[Any], rules: BodyRules) -> tuple[ParsedItems, list[Blob]]:
    items, instruction = read
    # what is refused as too long is not looked at, and what is truncated only at its ends
    longest_ids = rules.max_request_tokens if form is DETOKENIZE else rules.max_length
    return packed_items(items, instruction, longest_text=rules.longest_text, longest_ids=longest_ids)


if __name__ == "__main__":
    main()
