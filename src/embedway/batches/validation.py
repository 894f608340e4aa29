"""An uploaded file → the index of its requests, or what is wrong with it: OpenAI's rules, its codes, its line numbers.

What is in a body is no matter here but for its model and how many items it names: all else is said of it when it runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

import msgspec

from embedway.batches.index import Entry, line_of
from embedway.batches.records import BatchError, Limits

MAX_ERRORS = 100
"""Then nobody looks further: the rest of the file is likely to be of the same kind"""
LONGEST_CUSTOM_ID = 512
LONGEST_SHOWN = 100
ENDPOINT = "/v1/embeddings"
DIGITS = frozenset(bytes([digit]) for digit in b"-0123456789")


class Report(msgspec.Struct):
    """What is known of a file. Valid where there are no errors."""

    requests: int = 0
    inputs: int = 0
    model: str | None = None
    """That of all its requests"""
    errors: list[BatchError] = []


class Fault(Exception):
    """What is wrong with a line."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.param = code, message, param


_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_elements = msgspec.json.Decoder(list[msgspec.Raw])
_anything = msgspec.json.Decoder()


def validate(requests: BinaryIO, index: BinaryIO, limits: Limits) -> Report:
    """Read a file of requests, and write the index of those that are valid. Raises OSError."""
    report, seen = Report(), set()
    for number, offset, line in lines_of(requests, limits.line_bytes):
        try:
            entry = read_line(line, offset, limits, seen, report)
        except Fault as fault:
            report.errors.append(BatchError(fault.code, fault.message, fault.param, number))
        else:
            report.requests += 1
            report.inputs += entry.inputs
            index.write(line_of(entry))
        if len(report.errors) >= MAX_ERRORS:
            return report
        if problem := _too_many(report, limits):
            report.errors.append(problem)
            return report
    if not report.requests and not report.errors:
        report.errors.append(BatchError("empty_file", "The input file has no requests: one JSON object a line."))
    return report


def lines_of(requests: BinaryIO, longest: int) -> Iterator[tuple[int, int, bytes]]:
    """Number from 1 on, offset, and the line; empty ones are left out, and of one that is too long comes a part."""
    number = offset = 0
    while line := requests.readline(longest + 2):
        number += 1
        if not line.isspace():
            yield number, offset, line
        offset += len(line)
        while not line.endswith(b"\n") and (line := requests.readline(2**20)):
            offset += len(line)


def read_line(line: bytes, offset: int, limits: Limits, seen: set[str], report: Report) -> Entry:
    """Raises Fault."""
    if len(line.rstrip(b"\r\n")) > limits.line_bytes:
        raise Fault("line_too_long", f"The line is longer than {limits.line_bytes} bytes (--max-body-mb).")
    try:
        fields = _fields.decode(line)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise Fault("invalid_json_line", "The line is not a JSON object.") from None
    custom_id = _string(fields, "custom_id")
    if not 0 < len(custom_id) <= LONGEST_CUSTOM_ID:
        raise Fault(
            "invalid_custom_id",
            f"'custom_id' has {len(custom_id)} characters, but must have 1 to {LONGEST_CUSTOM_ID}.",
            "custom_id",
        )
    if custom_id in seen:
        raise Fault("duplicate_custom_id", f"'custom_id' is {_shown(custom_id)} on an earlier line, too.", "custom_id")
    seen.add(custom_id)
    if (method := _string(fields, "method")) != "POST":
        raise Fault("invalid_method", f"'method' is {_shown(method)}, but must be \"POST\".", "method")
    if (url := _string(fields, "url")) != ENDPOINT:
        raise Fault("invalid_url", f"'url' is {_shown(url)}, but must be the batch's endpoint, {ENDPOINT}.", "url")
    raw = bytes(_field(fields, "body"))
    try:
        body = _fields.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        raise Fault("invalid_body", "'body' must be an object.", "body") from None
    model = _string(body, "model", "body.model")
    if report.model is None:
        report.model = model
    if model != report.model:
        raise Fault(
            "mismatched_model",
            f"'model' is {_shown(model)}, but that of the requests before is {_shown(report.model)}: a batch has one.",
            "body.model",
        )
    # the same bytes earlier in the line would be as good
    return Entry(custom_id, offset + line.index(raw), len(raw), count_inputs(body.get("input")))


def count_inputs(given: msgspec.Raw | None) -> int:
    """A string, an object and a list of token ids are one item, any other list is as many as it has elements."""
    if given is None or _first_byte(given) != b"[":
        return 1
    try:
        elements = _elements.decode(given)
    except (msgspec.DecodeError, RecursionError):
        return 1
    is_token_ids = bool(elements) and _first_byte(elements[0]) in DIGITS
    return 1 if is_token_ids else max(1, len(elements))


def _too_many(report: Report, limits: Limits) -> BatchError | None:
    if report.requests > limits.requests:
        message = f"The input file has more than {limits.requests} requests (--max-batch-requests)."
        return BatchError("too_many_requests", message)
    if report.inputs > limits.inputs:
        message = f"The requests have more than {limits.inputs} items to embed in all (--max-batch-inputs)."
        return BatchError("too_many_inputs", message)
    return None


def _field(fields: dict[str, msgspec.Raw], name: str, param: str | None = None) -> msgspec.Raw:
    if name not in fields:
        raise Fault("missing_required_parameter", f"The required field '{param or name}' is missing.", param or name)
    return fields[name]


def _string(fields: dict[str, msgspec.Raw], name: str, param: str | None = None) -> str:
    raw = _field(fields, name, param)
    try:
        value: Any = _anything.decode(raw) if _first_byte(raw) == b'"' else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        value = None
    if not isinstance(value, str):
        raise Fault("invalid_type", f"'{param or name}' must be a string.", param or name)
    return value


def _first_byte(raw: msgspec.Raw) -> bytes:
    return bytes(memoryview(raw)[:1])


def _shown(value: str) -> str:
    return f'"{value[:LONGEST_SHOWN]}"'
