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

from embedway.api.body_forms import DETOKENIZE, FORMS, BodyForm, BodyRules
from embedway.api.body_messages import (
    PROMPT,
    Answer,
    Blob,
    Job,
    Parsed,
    ParsedItems,
    Refused,
    packed_items,
    read_exactly,
    read_header,
    text_pieces,
    write_frame,
)
from embedway.api.body_parsing import parse_body
from embedway.api.schemas import Body
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
    given = {name: getattr(body, name) for name in body.model_fields_set - left_out}
    prompt = given.pop(PROMPT, None)
    pieces = None if prompt is None else text_pieces(prompt, rules.longest_text)
    fields = {name: shallow(value) for name, value in given.items()}
    items, blobs = _items_of(body, form, rules)
    return Parsed(fields, items, None if pieces is None else list(map(len, pieces))), [*(pieces or ()), *blobs]


def _items_of(body: Body, form: BodyForm[Any], rules: BodyRules) -> tuple[ParsedItems | Refused | None, list[Blob]]:
    if not form.item_fields:
        return None, []
    try:
        items, instruction = form.items_of(body, rules)
    except EmbedwayError as error:
        return Refused.of(error), []
    # what is refused as too long is not looked at, and what is truncated only at its ends
    longest_ids = rules.max_request_tokens if form is DETOKENIZE else rules.max_length
    return packed_items(items, instruction, longest_text=rules.longest_text, longest_ids=longest_ids)


def shallow(value: object) -> object:
    """A field's value, cut, and with its inner arrays and objects empty: nobody looks further into one than that."""
    if isinstance(value, dict):
        return {}
    if isinstance(value, list):
        return [shallow_element(element) for element in value]
    return value[:LONGEST_ELEMENT] if isinstance(value, str) else value


def shallow_element(element: object) -> object:
    if isinstance(element, str):
        return element[:LONGEST_ELEMENT]
    return type(element)() if isinstance(element, dict | list) else element


if __name__ == "__main__":
    main()
