"""The body workers of an API process, each behind a thread that moves bytes and waits: neither holds Python's lock."""

from __future__ import annotations

import contextlib
import functools
import logging
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO, TypeAlias, cast

import msgspec

from embedway.api.body_forms import ReadBody
from embedway.api.body_messages import (
    PROMPT,
    Answer,
    Job,
    Parsed,
    ParsedItems,
    Refused,
    read_header,
    read_items,
    read_text,
    write_frame,
)
from embedway.api.work_threads import WorkThreads
from embedway.errors import TooMuchToParse

if TYPE_CHECKING:
    from embedway.api.body_forms import BodyForm, BodyRules, ReadItems
    from embedway.api.body_parsing import BodyT

logger = logging.getLogger("embedway.api")

COMMAND = (sys.executable, "-m", "embedway.api.body_worker")
NUM_WORKERS = 2
"""One is kept for what is smaller: see `WorkThreads`"""
BYTES_PER_SIZE = 16
"""Parsing so many bytes takes at most as long as tokenizing a character, which is what `WorkThreads` counts"""
TIMEOUT_SECONDS = 60.0
"""Without a byte moved: a gigabyte is parsed in less"""
BUFFER_BYTES = 2**18
MAX_ATTEMPTS = 2

Outcome: TypeAlias = "tuple[Answer, ReadItems | None]"


class BodyWorkerLost(Exception):
    """It ended, or stopped, without an answer."""


class BodyWorker:
    """A started worker: one body at a time. Its methods block, and belong into a thread."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - this Python, and a number
                [*COMMAND, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        ours.settimeout(TIMEOUT_SECONDS)
        self._socket = ours
        self._answers = cast("BinaryIO", ours.makefile("rb", buffering=BUFFER_BYTES))

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def parse(self, chunks: Sequence[bytes], job: Job) -> Outcome:
        """Raises BodyWorkerLost: then it has to be killed."""
        try:
            write_frame(self._socket.sendall, job, chunks)
            return read_outcome(self._answers)
        except (OSError, EOFError) as error:
            raise BodyWorkerLost from error

    def close(self) -> None:
        """It would end with the socket; one that stands still has to be ended."""
        self._process.kill()
        self._answers.close()
        self._socket.close()
        self._process.wait()


class BodyWorkers:
    """At most NUM_WORKERS, each started when all others are busy, and replaced once it has ended."""

    def __init__(self) -> None:
        self._threads = WorkThreads(NUM_WORKERS)
        self._idle: list[BodyWorker] = []

    def close(self) -> None:
        self._threads.close()
        while self._idle:
            self._idle.pop().close()

    async def parse(self, chunks: list[bytes], form: BodyForm[BodyT], rules: BodyRules) -> ReadBody[BodyT]:
        """Takes the chunks out of their list. Raises what `parse_body` does."""
        size = sum(map(len, chunks)) // BYTES_PER_SIZE
        outcome = await self._threads.run(size, lambda: self._parse(chunks, Job(form.name, rules)))
        return read_body_of(form, *outcome)

    def _parse(self, chunks: list[bytes], job: Job) -> Outcome:
        """In a thread."""
        outcome = self._answer(chunks, job)
        while chunks:
            chunks.pop()  # one by one: to free 64 MiB at once would hold up the loop for some milliseconds
        return outcome

    def _answer(self, chunks: Sequence[bytes], job: Job) -> Outcome:
        for attempt in range(MAX_ATTEMPTS):
            worker = self._free_worker()
            try:
                outcome = worker.parse(chunks, job)
            except BaseException as error:
                worker.close()
                if not isinstance(error, BodyWorkerLost):
                    raise
                if attempt == MAX_ATTEMPTS - 1:
                    raise TooMuchToParse from error
                logger.warning("a body worker ended without an answer; its body is parsed once more")
            else:
                self._idle.append(worker)
                return outcome
        raise AssertionError("unreachable")

    def _free_worker(self) -> BodyWorker:
        with contextlib.suppress(IndexError):  # none is left; another thread may take the last
            while True:
                worker = self._idle.pop()
                if worker.is_alive:
                    return worker
                worker.close()
        return BodyWorker()


def read_outcome(stream: BinaryIO) -> Outcome:
    """One answer, and the items that come after it. Raises EOFError."""
    header, _ = read_header(stream)
    answer = msgspec.msgpack.decode(header, type=Answer)
    if isinstance(answer, Refused):
        return answer, None
    if answer.prompt_bytes is not None:
        answer.fields[PROMPT] = read_text(stream, answer.prompt_bytes)
    return answer, read_items(answer.items, stream) if isinstance(answer.items, ParsedItems) else None


def read_body_of(form: BodyForm[BodyT], answer: Answer, items: ReadItems | None) -> ReadBody[BodyT]:
    """Raises what `parse_body` does."""
    if isinstance(answer, Refused):
        raise answer.error()
    fields = form.kind.model_construct(set(answer.fields), **answer.fields)
    return ReadBody(fields, functools.partial(_items_of, answer, items))


def _items_of(parsed: Parsed, items: ReadItems | None) -> ReadItems:
    if isinstance(parsed.items, Refused):
        raise parsed.items.error()
    assert items is not None
    return items
