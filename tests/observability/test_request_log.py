from __future__ import annotations

import json
import logging
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedway.observability.request_log import RequestLog, RequestRecord, first_characters

HOSTILE = 'a"\n2026-11-25 ERROR forged\r\x1b[2J\x9b2J\u2028\u202e\x7f\x00'


@settings(max_examples=30)
@given(st.text(max_size=300), st.text(max_size=50))
def test_whatever_a_client_sends_a_line_is_one_line_of_printable_ascii(name: str, text: str) -> None:
    for value in (name, name + HOSTILE):
        line = str(RequestRecord("id", "POST", model=value, adapter=value, texts=[text + HOSTILE]))
        assert line.isascii()
        assert line.isprintable()
        read = json.loads(line)
        assert (read["model"], read["texts"]) == (value[:200], [text + HOSTILE])


def test_what_is_not_known_of_a_request_is_left_out() -> None:
    assert RequestRecord("id", "GET", "/metrics", 200, 0.1234567).fields() == {
        "request_id": "id",
        "method": "GET",
        "route": "/metrics",
        "status": 200,
        "seconds": 0.123457,
        "key_number": 0,
    }


@given(st.lists(st.text()), st.integers(0, 20))
def test_no_more_characters_of_all_texts_are_logged_than_were_asked_for(texts: list[str], limit: int) -> None:
    kept = "".join(first_characters(texts, limit))
    assert kept == "".join(texts)[:limit]


def test_a_log_that_nobody_reads_holds_up_no_request(caplog: pytest.LogCaptureFixture) -> None:
    """The thread is at its first line; the queue fills up behind it, and what is too much is counted."""
    is_writing, may_go_on = threading.Event(), threading.Event()

    def block(record: logging.LogRecord) -> bool:
        is_writing.set()
        return may_go_on.wait(30)

    requests = logging.getLogger("embedway.requests")
    log = RequestLog(text_characters=0, max_waiting=3)
    requests.addFilter(block)
    try:
        log.write(RequestRecord("first"))
        assert is_writing.wait(30)
        for i in range(5):
            log.write(RequestRecord(str(i)))
        may_go_on.set()
    finally:
        requests.removeFilter(block)
        may_go_on.set()
    log.close()
    assert "2 requests were not logged" in caplog.text
    assert caplog.text.count('"request_id"') == 4
