"""What is wrong with a file of requests is said with its line; what is right is found again through the index."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedway.batches.index import IndexReader
from embedway.batches.records import Limits
from embedway.batches.validation import MAX_ERRORS, Report, validate
from embedway.batches.validator import validated
from stored_batches import LIMITS, jsonl, request_line

LINE = request_line("a")


def check(data: bytes, limits: Limits = LIMITS) -> tuple[Report, bytes]:
    index = io.BytesIO()
    return validate(io.BytesIO(data), index, limits), index.getvalue()


def found(report: Report) -> list[tuple[int | None, str, str | None]]:
    return [(error.line, error.code, error.param) for error in report.errors]


@pytest.mark.parametrize(
    ("second", "code", "param"),
    [
        (b"{", "invalid_json_line", None),
        (b"[]", "invalid_json_line", None),
        (b"\xff", "invalid_json_line", None),
        (b"[" * 5000, "invalid_json_line", None),
        (jsonl([{**LINE, "custom_id": "a"}]), "duplicate_custom_id", "custom_id"),
        (jsonl([{**LINE, "custom_id": ""}]), "invalid_custom_id", "custom_id"),
        (jsonl([{**LINE, "custom_id": "x" * 513}]), "invalid_custom_id", "custom_id"),
        (jsonl([{**LINE, "custom_id": 7}]), "invalid_type", "custom_id"),
        (jsonl([{name: LINE[name] for name in ("method", "url", "body")}]), "missing_required_parameter", "custom_id"),
        (jsonl([{**LINE, "custom_id": "b", "method": "GET"}]), "invalid_method", "method"),
        (jsonl([{**LINE, "custom_id": "b", "url": "/v1/completions"}]), "invalid_url", "url"),
        (jsonl([{**LINE, "custom_id": "b", "body": []}]), "invalid_body", "body"),
        (jsonl([{**LINE, "custom_id": "b", "body": {"input": "x"}}]), "missing_required_parameter", "body.model"),
        (jsonl([{**LINE, "custom_id": "b", "body": {"model": None}}]), "invalid_type", "body.model"),
        (jsonl([request_line("b", model="other")]), "mismatched_model", "body.model"),
        (jsonl([request_line("b", "x" * 2**16)]), "line_too_long", None),
    ],
)
def test_a_line_that_is_no_request_is_named_with_its_fault(second: bytes, code: str, param: str | None) -> None:
    report, _ = check(jsonl([LINE]) + b"\n" + second.rstrip(b"\n") + b"\n" + jsonl([request_line("c")]))
    assert found(report) == [(3, code, param)]
    assert report.requests == 2


@pytest.mark.parametrize("data", [b"", b"\n", b" \n\r\n"])
def test_a_file_without_requests_is_refused(data: bytes) -> None:
    assert found(check(data)[0]) == [(None, "empty_file", None)]


def test_no_more_errors_are_looked_for_than_anybody_reads() -> None:
    report, _ = check(b"{\n" * 1000)
    assert [error.line for error in report.errors] == list(range(1, MAX_ERRORS + 1))


@pytest.mark.parametrize(
    ("given", "inputs"),
    [
        ("text", 1),
        (["a", "b", "c"], 3),
        ([1, 2, 3], 1),
        ([[1, 2], [3]], 2),
        ([{"text": "a"}, {"image": "b"}], 2),
        ({"text": "a"}, 1),
        ([], 1),
        (None, 1),
    ],
)
def test_items_are_counted_in_each_of_the_forms_of_input(given: Any, inputs: int) -> None:
    assert check(jsonl([request_line("a", given)]))[0].inputs == inputs


@pytest.mark.parametrize(("field", "code"), [("requests", "too_many_requests"), ("inputs", "too_many_inputs")])
def test_a_batch_has_as_much_as_it_may_and_not_more(field: str, code: str) -> None:
    limits = msgspec.structs.replace(LIMITS, **{field: 4})
    lines = [request_line(str(i)) for i in range(5)]
    assert not check(jsonl(lines[:4]), limits)[0].errors
    assert found(check(jsonl(lines), limits)[0]) == [(None, code, None)]


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.lists(
        st.tuples(st.text(min_size=1, max_size=8), values), min_size=1, max_size=8, unique_by=lambda pair: pair[0]
    ),
    st.booleans(),
    st.sampled_from([b"\n", b"\r\n", b"\n\n", b"\n  \n"]),
    st.randoms(use_true_random=False),
)
def test_every_body_is_found_through_the_index_as_it_was_written(
    pairs: list[tuple[str, Any]], is_ascii: bool, newline: bytes, random: Any
) -> None:
    lines = []
    for custom_id, value in pairs:
        fields = list(request_line(custom_id, value).items())
        random.shuffle(fields)
        lines.append(json.dumps(dict(fields), ensure_ascii=is_ascii).encode())
    data = newline.join(lines)
    report, index = check(data)
    assert not report.errors
    assert report.requests == len(pairs)
    reader = IndexReader(io.BytesIO(index), io.BytesIO(data), 0)
    for custom_id, value in pairs:
        request = reader.read()
        assert request.entry.custom_id == custom_id
        assert json.loads(request.body) == {"model": "m", "input": value}
    assert reader.peek() is None


@settings(max_examples=40)
@given(st.binary(max_size=200) | st.lists(values, max_size=4).map(jsonl))
def test_whatever_is_in_a_file_there_is_an_index_or_an_error(data: bytes) -> None:
    report, index = check(data)
    assert report.errors or report.requests == index.count(b"\n") > 0


async def test_a_process_of_its_own_finds_the_same(tmp_path: Path) -> None:
    data = jsonl([request_line("a", ["x", "y"]), request_line("b")])
    (tmp_path / "in").write_bytes(data)
    report = await validated(tmp_path / "in", tmp_path / "index", LIMITS)
    expected, index = check(data)
    assert report == expected
    assert (tmp_path / "index").read_bytes() == index
    assert not await asyncio.to_thread(lambda: {path.name for path in tmp_path.iterdir()} - {"in", "index"})
