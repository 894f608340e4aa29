"""The forms of `input`: decoded JSON → Items, strictly typed, each fault named by its place.

Forms: a string, token ids, an object, or an array of strings, of lists of token ids or of objects
(`item_objects.py`). A bare object is one item, as a bare string is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from embedway.errors import EmptyInput, InvalidType, MediaNotSupported, TooManyItems
from embedway.inputs.item_objects import ObjectItem, check_text, read_object
from embedway.inputs.json_types import describe_json_type
from embedway.visual import MediaRef

_OBJECT = "an object with 'text', 'image' or 'video'"
_FORMS = f"a string, token ids, {_OBJECT}, or an array of strings, of lists of token ids or of such objects"
_ELEMENT_NAMES = {
    str: "a string",
    int: "a token id (an integer)",
    list: "a list of token ids",
    dict: _OBJECT,
}


@dataclass(frozen=True, slots=True)
class Items:
    """What one request asks to embed: texts, perhaps with images and videos, or token ids, never both.

    There is at least one item, and none is empty.
    """

    texts: list[str]
    """One an item, "" where it has only media; no list at all where the items are token ids."""
    token_ids: Sequence[Sequence[int]]
    """One list an item, of any integers: the vocabulary is not known here. Empty where the items are texts."""
    field: str
    """The request's field they came from."""
    is_single: bool
    """True where the field held one bare item, not an array of them."""
    key: str = ""
    """`.text` where the items came as objects: the end of their names."""
    media: Mapping[int, tuple[MediaRef, ...]] = field(default_factory=dict)
    """Item → its images and videos, where it has any"""

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
        name = self.field if self.is_single else f"{self.field}[{i}]"
        return name if i in self.media else name + self.key

    def let_go_of_texts(self) -> None:
        """Free them one by one, once nobody looks at them any more: their number stays, and their names.

        The newest first, so that the C library gives memory back bit by bit.
        """
        for i in reversed(range(len(self.texts))):
            self.texts[i] = ""

    def require_text_only(self) -> None:
        """Raises MediaNotSupported, with the first image or video."""
        for refs in self.media.values():
            raise MediaNotSupported(param=refs[0].param, kind=refs[0].kind)


def parse_input(value: object, *, max_items: int, field: str = "input") -> Items:
    """Check the decoded JSON of `field` and return its items; `max_items` limits the arrays of several items.

    Raises InvalidType, InvalidValue, EmptyInput or TooManyItems, each with the place at fault.
    """
    if isinstance(value, str):
        check_text(value, field)
        return Items([value], [], field, is_single=True)
    if isinstance(value, dict):
        return _of_objects([read_object(value, field)], field, is_single=True)
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
        objects = [read_object(value, f"{field}[{i}]") for i, value in enumerate(values)]
        return _of_objects(objects, field, is_single=False)
    if not all(values) or any(map(str.isspace, values)):
        for i, value in enumerate(values):
            check_text(value, f"{field}[{i}]")
    return Items(values, [], field, is_single=False)


def _of_objects(objects: Sequence[ObjectItem], field: str, *, is_single: bool) -> Items:
    media = {i: item.media for i, item in enumerate(objects) if item.media}
    return Items([item.text or "" for item in objects], [], field, is_single=is_single, key=".text", media=media)


def _check_same_type(values: list[Any], field: str) -> None:
    """Exact types, so true is no integer; one pass in C, and a search for the index only on failure."""
    first = type(values[0])
    expected = _ELEMENT_NAMES.get(first)
    if expected is None:
        raise InvalidType(
            param=f"{field}[0]",
            expected=f"a string, a token id (an integer), a list of token ids or {_OBJECT}",
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
