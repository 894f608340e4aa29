"""The forms of `input`: decoded JSON → Items, strictly typed, each fault named by its place.

Forms: a string, token ids, an object, or an array of strings, of lists of token ids or of objects
`{text?, image?, video?}`. A bare object is one item, as a bare string is.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

from embedway.errors import EmptyInput, InvalidType, InvalidValue, MediaNotSupported, TooManyItems

_FORMS = "a string, token ids, an object with 'text', or an array of strings, of lists of token ids or of such objects"
_ELEMENT_NAMES = {
    str: "a string",
    int: "a token id (an integer)",
    list: "a list of token ids",
    dict: "an object with 'text'",
}
_MEDIA_KEYS = ("image", "video")


@dataclass(frozen=True, slots=True)
class Items:
    """What one request asks to embed: texts or token ids, never both. There is at least one item, and none is empty."""

    texts: list[str]
    """One an item; empty where the items are token ids."""
    token_ids: list[list[int]]
    """One list an item, of any integers: the vocabulary is not known here. Empty where the items are texts."""
    field: str
    """The request's field they came from."""
    is_single: bool
    """True where the field held one bare item, not an array of them."""
    key: str = ""
    """`.text` where the items came as objects: the end of their names."""

    def __len__(self) -> int:
        return len(self.texts) or len(self.token_ids)

    @property
    def is_text(self) -> bool:
        return bool(self.texts)

    @property
    def size(self) -> int:
        """Characters of all the texts together, or all the token ids."""
        return sum(map(len, self.texts or self.token_ids))

    def param(self, i: int) -> str:
        """Item i's name in error messages: `input`, `input[3]` or `input[3].text`."""
        return (self.field if self.is_single else f"{self.field}[{i}]") + self.key


def parse_input(value: object, *, max_items: int, field: str = "input") -> Items:
    """Check the decoded JSON of `field` and return its items; `max_items` limits the arrays of several items.

    Raises InvalidType, InvalidValue, EmptyInput, TooManyItems or MediaNotSupported, each with the place at fault.
    """
    if isinstance(value, str):
        _check_text(value, field)
        return Items([value], [], field, is_single=True)
    if isinstance(value, dict):
        return Items([_text_of_object(value, field)], [], field, is_single=True, key=".text")
    if not isinstance(value, list):
        raise InvalidType(param=field, expected=_FORMS, got=describe_json_type(value))
    if not value:
        raise EmptyInput(param=field, what="an empty array")
    if type(value[0]) is int:
        _check_same_type(value, field)
        return Items([], [value], field, is_single=True)
    return _parse_array(value, max_items, field)


def _parse_array(values: list[Any], max_items: int, field: str) -> Items:
    if len(values) > max_items:
        raise TooManyItems(param=field, count=len(values), limit=max_items)
    _check_same_type(values, field)
    if isinstance(values[0], list):
        _check_lists_of_token_ids(values, field)
        return Items([], values, field, is_single=False)
    if isinstance(values[0], dict):
        texts = [_text_of_object(value, f"{field}[{i}]") for i, value in enumerate(values)]
        return Items(texts, [], field, is_single=False, key=".text")
    if not all(values) or any(map(str.isspace, values)):
        for i, value in enumerate(values):
            _check_text(value, f"{field}[{i}]")
    return Items(values, [], field, is_single=False)


def _check_same_type(values: list[Any], field: str) -> None:
    """Exact types, so true is no integer; one pass in C, and a search for the index only on failure."""
    first = type(values[0])
    expected = _ELEMENT_NAMES.get(first)
    if expected is None:
        raise InvalidType(
            param=f"{field}[0]",
            expected="a string, a token id (an integer), a list of token ids or an object with 'text'",
            got=describe_json_type(values[0]),
        )
    if len(set(map(type, values))) > 1:
        i = next(i for i, value in enumerate(values) if type(value) is not first)
        raise InvalidType(
            param=f"{field}[{i}]", expected=f"{expected}, as {field}[0] is", got=describe_json_type(values[i])
        )


def _check_lists_of_token_ids(values: list[list[Any]], field: str) -> None:
    if not all(values):
        raise EmptyInput(param=f"{field}[{values.index([])}]", what="an empty array")
    if set(map(type, chain.from_iterable(values))) != {int}:
        i, j, value = next(
            (i, j, value) for i, ids in enumerate(values) for j, value in enumerate(ids) if type(value) is not int
        )
        raise InvalidType(param=f"{field}[{i}][{j}]", expected=_ELEMENT_NAMES[int], got=describe_json_type(value))


def _check_text(text: str, param: str) -> None:
    # Zero-width characters are no whitespace in Unicode, and tokenizers may well have tokens for them.
    if not text:
        raise EmptyInput(param=param, what="an empty string")
    if text.isspace():
        raise EmptyInput(param=param, what="only whitespace")


def _text_of_object(value: dict[str, Any], param: str) -> str:
    """The text of `{text?, image?, video?}`; null is the same as leaving a key out, other keys are ignored."""
    for key in _MEDIA_KEYS:
        if value.get(key) is not None:
            raise MediaNotSupported(param=f"{param}.{key}", kind=key)
    if "text" not in value:
        problem = f"must have 'text' (or, for other models, 'image' or 'video'), but it {_keys_of(value)}"
        raise InvalidValue(param=param, problem=problem)
    text = value["text"]
    if not isinstance(text, str):
        raise InvalidType(param=f"{param}.text", expected="a string", got=describe_json_type(text))
    _check_text(text, f"{param}.text")
    return text


def _keys_of(value: dict[str, Any]) -> str:
    """What an object has instead of the keys that it should: in words, and short whatever the client sent."""
    if not value:
        return "is empty"
    shown = ", ".join(f"'{key[:40]}'" for key in list(value)[:5])
    return f"has {shown}" + (f" and {len(value) - 5} more" if len(value) > 5 else "")


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
