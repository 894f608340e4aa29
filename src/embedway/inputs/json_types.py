"""JSON's types in JSON's words, for error messages."""

from __future__ import annotations


def describe_json_type(value: object) -> str:
    """A decoded JSON value's type in JSON's words, never Python's: `a string`, `null`, `a number with a fraction`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        # JSON integers beyond 64 bits arrive as floats, too.
        return "a number beyond 64 bits" if abs(value) >= 2**63 else "a number with a fraction"
    names = {str: "a string", int: "an integer", list: "an array", dict: "an object"}
    return names.get(type(value), "an unknown value")
