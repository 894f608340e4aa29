"""SGLang's native form of items: `text`, `image_data` and `video_data` side by side, each one value or one an item."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from embedway.errors import EmptyInput, InvalidType, InvalidValue, TooManyItems
from embedway.inputs.item_objects import check_text, media_ref
from embedway.inputs.items import Items
from embedway.inputs.json_types import describe_json_type
from embedway.visual import MediaKind, MediaRef

MEDIA_FIELDS: Mapping[str, MediaKind] = {"image_data": "image", "video_data": "video"}


@dataclass(frozen=True, slots=True)
class _Column:
    field: str
    values: list[Any]
    """One an item"""
    is_single: bool

    def param(self, i: int) -> str:
        return self.field if self.is_single else f"{self.field}[{i}]"


def parse_columns(values: Mapping[str, object], *, max_items: int) -> Items:
    """`values` has what is not null of `text`, `image_data` and `video_data`, and media at least.

    They are one item where `text` is a string, or none is an array; else each is an array with one entry an item, null
    where it has none. Raises InvalidType, InvalidValue, EmptyInput or TooManyItems.
    """
    is_single = isinstance(values.get("text"), str) or not any(isinstance(value, list) for value in values.values())
    read = _one if is_single else _many
    columns = {field: _Column(field, read(field, value), is_single) for field, value in values.items()}
    first = next(iter(columns.values()))
    for column in columns.values():
        _check_length(column, first, max_items)
    media = {i: refs for i in range(len(first.values)) if (refs := _media(columns, i))}
    texts = [
        _text(columns["text"], i, has_media=i in media) if "text" in columns else "" for i in range(len(first.values))
    ]
    for i, text in enumerate(texts):
        if not text and i not in media:
            raise EmptyInput(param=first.param(i), what="null, as is all else of the item")
    return Items(texts, [], first.field, is_single=is_single, media=media)


def _check_length(column: _Column, first: _Column, max_items: int) -> None:
    count = len(column.values)
    if count > max_items:
        raise TooManyItems(param=column.field, count=count, limit=max_items)
    if count != len(first.values):
        problem = f"has {count} entries, but '{first.field}' has {len(first.values)}"
        raise InvalidValue(param=column.field, problem=problem)


def _one(name: str, value: object) -> list[Any]:
    """An item's value: SGLang's own clients send an image as a list of one."""
    if isinstance(value, list):
        if len(value) != 1:
            problem = f"has {len(value)} entries for one item, which may have one"
            raise InvalidValue(param=name, problem=problem)
        return value
    return [value]


def _many(name: str, value: object) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidType(param=name, expected="an array, one entry an item", got=describe_json_type(value))
    if not value:
        raise EmptyInput(param=name, what="an empty array")
    return value


def _text(column: _Column, i: int, *, has_media: bool) -> str:
    value = column.values[i]
    if value is None or (value == "" and has_media):
        return ""
    if not isinstance(value, str):
        raise InvalidType(param=column.param(i), expected="a string", got=describe_json_type(value))
    check_text(value, column.param(i))
    return value


def _media(columns: Mapping[str, _Column], i: int) -> tuple[MediaRef, ...]:
    """An item's image, and its video."""
    given = [(kind, columns[field]) for field, kind in MEDIA_FIELDS.items() if field in columns]
    return tuple(_ref(kind, column, i) for kind, column in given if column.values[i] is not None)


def _ref(kind: MediaKind, column: _Column, i: int) -> MediaRef:
    value = column.values[i]
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str):
        raise InvalidType(param=column.param(i), expected="a string", got=describe_json_type(value))
    return media_ref(kind, value, column.param(i))
