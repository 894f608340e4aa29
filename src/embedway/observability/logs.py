"""One line a log record, to stderr: as people read them, or as JSON; with the request's id where there is one."""

from __future__ import annotations

import datetime as dt
import json
import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Any

_request: ContextVar[Mapping[str, Any] | None] = ContextVar("request", default=None)

NOISY = ("httpx", "huggingface_hub", "transformers", "uvicorn.error", "asyncio", "opentelemetry")
"""They say much of little weight below a warning"""


class StructuredMessage(ABC):
    """A message of named values: `logger.info(message)`. JSON's lines have them as fields of their own."""

    @abstractmethod
    def fields(self) -> dict[str, Any]:
        """Names to what JSON can hold."""

    def __str__(self) -> str:
        return json.dumps(self.fields())  # ASCII only


def in_request(state: Mapping[str, Any]) -> None:
    """What this task logs from now on is of the request of this ASGI state, whose `request_id` is read when it is."""
    _request.set(state)


def configure_logging(level: str, *, process: str, log_format: str = "pretty") -> None:
    """Send this process's records to stderr at `level` (a name of the logging module, any case)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(process) if log_format == "json" else PrettyFormatter(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in NOISY:
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING))
    if log_format == "json":
        logging.captureWarnings(True)
        sys.excepthook = _log_uncaught


class PrettyFormatter(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__(f"%(asctime)s %(levelname)s [{process}] %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        line, request_id = super().formatMessage(record), _request_id()
        return line if request_id is None or request_id in line else f"{line} (request {request_id})"


class JsonFormatter(logging.Formatter):
    """One object a line, plain ASCII: nothing in it can end the line or reach a terminal."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        at = dt.datetime.fromtimestamp(record.created, dt.timezone.utc)
        values: dict[str, Any] = {
            "time": at.isoformat("T", "milliseconds"),
            "level": record.levelname.lower(),
            "process": self._process,
            "pid": record.process,
            "logger": record.name,
        }
        if (request_id := _request_id()) is not None:
            values["request_id"] = request_id
        if isinstance(record.msg, StructuredMessage):
            values |= {"message": "request", **record.msg.fields()}
        else:
            values["message"] = record.getMessage()
        if record.exc_info:
            values["exception"] = self.formatException(record.exc_info)
        return json.dumps(values)


def _request_id() -> str | None:
    state = _request.get()
    return None if state is None else state.get("request_id")


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger("embedway").critical("this process ends by an error", exc_info=(kind, error, trace))
