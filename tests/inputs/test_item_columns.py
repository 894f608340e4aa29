from __future__ import annotations

from typing import Any

import pytest

from embedway.errors import EmptyInput, InvalidType, InvalidValue, RequestError, TooManyItems
from embedway.inputs.item_columns import parse_columns
from embedway.visual import MediaRef


@pytest.mark.parametrize("image", ["i", ["i"]])
def test_one_item_may_have_its_image_in_a_list_of_one(image: object) -> None:
    items = parse_columns({"text": "a", "image_data": image, "video_data": "v"}, max_items=9)
    assert items.is_single
    assert items.texts == ["a"]
    assert items.media == {0: (MediaRef("image", "i", "image_data"), MediaRef("video", "v", "video_data"))}


def test_columns_are_read_item_by_item() -> None:
    items = parse_columns({"text": ["a", None, "c"], "image_data": [None, "i", ["j"]]}, max_items=9)
    assert not items.is_single
    assert items.texts == ["a", "", "c"]
    assert items.media == {1: (MediaRef("image", "i", "image_data[1]"),), 2: (MediaRef("image", "j", "image_data[2]"),)}
    assert items.param(1) == "text[1]"


def test_an_empty_text_beside_an_image_is_none() -> None:
    assert parse_columns({"text": "", "image_data": "i"}, max_items=9).texts == [""]


def test_a_list_of_images_alone_is_a_batch() -> None:
    items = parse_columns({"image_data": ["i", "j"]}, max_items=9)
    assert [len(items.media[i]) for i in range(len(items))] == [1, 1]
    assert items.param(1) == "image_data[1]"


@pytest.mark.parametrize(
    ("columns", "error", "param"),
    [
        ({"text": "a", "image_data": ["i", "j"]}, InvalidValue, "image_data"),
        ({"text": ["a", "b"], "image_data": ["i"]}, InvalidValue, "image_data"),
        ({"text": ["a"], "image_data": "i"}, InvalidType, "image_data"),
        ({"text": ["a"], "image_data": []}, EmptyInput, "image_data"),
        ({"text": [None], "image_data": [None]}, EmptyInput, "text[0]"),
        ({"text": ["a", 5], "image_data": ["i", "j"]}, InvalidType, "text[1]"),
        ({"text": [" "], "image_data": ["i"]}, EmptyInput, "text[0]"),
        ({"image_data": [5]}, InvalidType, "image_data[0]"),
        ({"image_data": [["i", "j"]]}, InvalidType, "image_data[0]"),
        ({"image_data": [""]}, EmptyInput, "image_data[0]"),
        ({"image_data": {"url": "i"}}, InvalidType, "image_data"),
        ({"image_data": ["i"] * 10}, TooManyItems, "image_data"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_place(
    columns: dict[str, Any], error: type[RequestError], param: str
) -> None:
    with pytest.raises(RequestError) as caught:
        parse_columns(columns, max_items=9)
    assert type(caught.value) is error
    assert caught.value.param == param
