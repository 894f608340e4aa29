from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedway.observability.logs import JsonFormatter, PrettyFormatter, configure_logging, in_request
from embedway.observability.request_log import RequestRecord

logger = logging.getLogger("embedway.test")


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root, hook = logging.getLogger(), sys.excepthook
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], sys.excepthook = handlers, hook
    root.setLevel(level)
    logging.captureWarnings(False)
    in_request({})


def record_of(message: object, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord("embedway.test", logging.INFO, __file__, 1, message, arguments, None)


def test_each_line_of_json_parses_whatever_happens(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", process="api", log_format="json")
    logger.debug("not asked for")
    logger.info("plain %d", 1)
    in_request({"request_id": "mine"})
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        logger.exception("failed")
        sys.excepthook(ValueError, error, error.__traceback__)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("of a library", stacklevel=1)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["level"], line["message"]) for line in lines[:3]] == [
        ("info", "plain 1"),
        ("error", "failed"),
        ("critical", "this process ends by an error"),
    ]
    assert "of a library" in lines[3]["message"]
    assert len(lines) == 4
    assert {line["process"] for line in lines} == {"api"}
    assert [line.get("request_id") for line in lines] == [None, "mine", "mine", "mine"]
    assert "two\nlines" in lines[1]["exception"]


def test_a_request_s_line_has_its_values_as_fields() -> None:
    in_request({"request_id": "of the task"})
    record = RequestRecord("mine", "POST", "/v1/embeddings", 200, 0.5, tokens=3)
    line = json.loads(JsonFormatter("api").format(record_of(record)))
    assert (line["request_id"], line["route"], line["tokens"]) == ("mine", "/v1/embeddings", 3)
    assert line["message"] == "request"
    pretty = PrettyFormatter("api").format(record_of(record))
    assert json.loads(pretty.partition("embedway.test: ")[2].removesuffix(" (request of the task)"))["tokens"] == 3


def test_a_pretty_line_names_the_request_once() -> None:
    formatter = PrettyFormatter("api")
    assert formatter.format(record_of("one")).endswith("INFO [api] embedway.test: one")
    in_request({"request_id": "mine"})
    assert formatter.format(record_of("one")).endswith("embedway.test: one (request mine)")
    assert formatter.format(record_of("request %s failed", "mine")).endswith("embedway.test: request mine failed")


@given(st.text())
def test_no_message_can_end_its_line_or_reach_a_terminal(text: str) -> None:
    line = JsonFormatter("api").format(record_of("%s", text))
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["message"] == text
