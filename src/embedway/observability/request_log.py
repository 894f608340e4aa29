"""One line of JSON a request, where the operator wants it: `--log-requests`, and texts with `--log-request-texts`.

Lines are written by a thread of their own, so that whoever reads the log slowly holds up nobody. They are plain ASCII:
whatever a client sends is escaped, and can neither end a line nor move a terminal's cursor. Never keys or headers.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from embedway.observability.logs import StructuredMessage

logger = logging.getLogger("embedway.requests")

MAX_WAITING = 10_000
"""Lines that may wait to be written; further ones are only counted"""
CLOSE_SECONDS = 2.0
MAX_NAME_CHARACTERS = 200
"""Of what a client calls a model or an adapter"""


@dataclass(slots=True)
class RequestRecord(StructuredMessage):
    """What is known of a request; each layer fills in what it learns. None: the request did not come that far."""

    request_id: str = ""
    """This and the next four are written by `api.request_context`."""
    method: str = ""
    route: str = ""
    """As declared, without what the client put into it; `unknown` where there is none"""
    status: int = 0
    """0: the client went away before its answer"""
    seconds: float = 0.0
    """From the request's head to the end of its answer"""
    key_number: int = 0
    """The API key's place among those given at the start; 0 for none and for the admin's"""
    model: str | None = None
    adapter: str | None = None
    items: int | None = None
    tokens: int | None = None
    priority: int | None = None
    """The scheduler's: larger first"""
    queue_seconds: float | None = None
    compute_seconds: float | None = None
    texts: list[str] | None = None

    def fields(self) -> dict[str, Any]:
        values = {name: value for name, value in asdict(self).items() if value is not None}
        for name in ("model", "adapter"):
            if name in values:
                values[name] = values[name][:MAX_NAME_CHARACTERS]
        for name in ("seconds", "queue_seconds", "compute_seconds"):
            if name in values:
                values[name] = round(values[name], 6)
        return values


class RequestLog:
    """Writes records. Ended by `close`."""

    def __init__(self, *, text_characters: int, max_waiting: int = MAX_WAITING) -> None:
        """`text_characters` of each request's texts may be logged; 0: none."""
        self._text_characters = text_characters
        self._waiting: queue.Queue[RequestRecord | None] = queue.Queue(max_waiting)
        self._num_dropped = 0
        """Since the last line. Written by whoever calls `write`, and set back by the thread"""
        logger.setLevel(logging.INFO)  # whatever --log-level is: they are asked for
        self._thread = threading.Thread(target=self._run, name="request log", daemon=True)
        self._thread.start()

    def texts_of(self, texts: Iterable[str]) -> list[str] | None:
        """As much of them as may be logged; None for nothing."""
        return list(first_characters(texts, self._text_characters)) if self._text_characters else None

    def write(self, record: RequestRecord) -> None:
        """Never waits. The record must not be changed any more."""
        try:
            self._waiting.put_nowait(record)
        except queue.Full:
            self._num_dropped += 1

    def close(self) -> None:
        """Write what waits, and end; give up where nobody reads the log."""
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=CLOSE_SECONDS)
            self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while (record := self._waiting.get()) is not None:
            logger.info(record)
            if self._num_dropped:
                logger.warning("%d requests were not logged: the log is read too slowly", self._num_dropped)
                self._num_dropped = 0


def first_characters(texts: Iterable[str], limit: int) -> Iterator[str]:
    for text in texts:
        if limit <= 0:
            return
        yield text[:limit]
        limit -= len(text)
