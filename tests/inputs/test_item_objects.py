from __future__ import annotations

from typing import Any

import pytest

from embedway.errors import EmptyInput, InvalidType, InvalidValue, RequestError
from embedway.inputs.item_objects import PART_TYPES, ObjectItem, read_object
from embedway.visual import MediaRef


def refusal(value: dict[str, Any]) -> RequestError:
    with pytest.raises(RequestError) as caught:
        read_object(value, "input[3]")
    return caught.value


@pytest.mark.parametrize(
    ("value", "kind", "param"),
    [
        ({"image": "x"}, "image", "input[3].image"),
        ({"video": "x", "text": None}, "video", "input[3].video"),
        ({"text": "", "image": "x"}, "image", "input[3].image"),
        ({"type": "image_url", "image_url": {"url": "x"}}, "image", "input[3].image_url.url"),
        ({"type": "image_url", "image_url": {"url": "x", "detail": "low"}}, "image", "input[3].image_url.url"),
        ({"type": "image_url", "image_url": "x"}, "image", "input[3].image_url"),
        ({"type": "input_image", "image_url": "x"}, "image", "input[3].image_url"),
        ({"type": "image", "image": "x"}, "image", "input[3].image"),
        ({"type": "image", "url": "x"}, "image", "input[3].url"),
        ({"type": "video_url", "video_url": {"url": "x"}}, "video", "input[3].video_url.url"),
        ({"content": [{"type": "video", "video": "x"}]}, "video", "input[3].content[0].video"),
        ({"role": "user", "content": [{"image": "x"}]}, "image", "input[3].content[0].image"),
    ],
)
def test_all_forms_of_an_image_or_a_video_are_one(value: dict[str, Any], kind: str, param: str) -> None:
    item = read_object(value, "input[3]")
    assert item.text is None
    assert [(ref.kind, ref.given, ref.param) for ref in item.media] == [(kind, "x", param)]


@pytest.mark.parametrize(
    "value",
    [
        {"text": "a"},
        {"type": "text", "text": "a"},
        {"type": "input_text", "text": "a"},
        {"content": "a"},
        {"content": [{"type": "text", "text": "a"}]},
        {"text": "a", "image": None, "id": 7},
    ],
)
def test_all_forms_of_a_text_are_one(value: dict[str, Any]) -> None:
    assert read_object(value, "input[3]") == ObjectItem("a", ())


def test_parts_of_a_message_are_one_item_with_the_image_first() -> None:
    message = {
        "role": "user",
        "content": [
            {"type": "text", "text": "a"},
            {"type": "video_url", "video_url": {"url": "v"}},
            {"type": "image_url", "image_url": {"url": "i"}},
        ],
    }
    item = read_object(message, "input[3]")
    assert item.text == "a"
    assert item.media == (
        MediaRef("image", "i", "input[3].content[2].image_url.url"),
        MediaRef("video", "v", "input[3].content[1].video_url.url"),
    )


@pytest.mark.parametrize(
    ("value", "error", "param"),
    [
        ({}, InvalidValue, "input[3]"),
        ({"img": "x"}, InvalidValue, "input[3]"),
        ({"image": ""}, EmptyInput, "input[3].image"),
        ({"text": "a", "image": ""}, EmptyInput, "input[3].image"),
        ({"text": " ", "image": "x"}, EmptyInput, "input[3].text"),
        ({"image": None}, InvalidType, "input[3].image"),
        ({"image": ["x"]}, InvalidType, "input[3].image"),
        ({"image": {"url": "x"}}, InvalidType, "input[3].image"),
        ({"text": "a", "audio": "x"}, InvalidValue, "input[3].audio"),
        ({"text": "a", "images": ["x"]}, InvalidValue, "input[3].images"),
        ({"image_url": {"url": "x"}}, InvalidValue, "input[3].image_url"),
        ({"type": "audio_url", "audio_url": {"url": "x"}}, InvalidValue, "input[3].type"),
        ({"type": 5}, InvalidType, "input[3].type"),
        ({"type": "image_url"}, InvalidValue, "input[3]"),
        ({"type": "image_url", "image_url": {}}, InvalidType, "input[3].image_url.url"),
        ({"type": "image_url", "image_url": None}, InvalidType, "input[3].image_url"),
        ({"type": "text", "text": {"url": "x"}}, InvalidType, "input[3].text"),
        ({"type": "text", "text": "a", "image_url": {"url": "x"}}, InvalidValue, "input[3].image_url"),
        ({"type": "text", "text": "a", "image": "x"}, InvalidValue, "input[3].image"),
        ({"content": "a", "image": "x"}, InvalidValue, "input[3].image"),
        ({"content": "a", "text": "b"}, InvalidValue, "input[3].text"),
        ({"text": "a", "image_data": "x"}, InvalidValue, "input[3].image_data"),
        ({"text": "a", "b64_json": "x"}, InvalidValue, "input[3].b64_json"),
        ({"content": []}, EmptyInput, "input[3].content"),
        ({"content": ["a"]}, InvalidType, "input[3].content[0]"),
        ({"content": 5}, InvalidType, "input[3].content"),
        ({"content": [{"type": "text", "text": "a"}, {"text": "b"}]}, InvalidValue, "input[3].content[1].text"),
        ({"content": [{"image": "a"}, {"image": "b"}]}, InvalidValue, "input[3].content[1].image"),
    ],
)
def test_nothing_is_left_out_in_silence(value: dict[str, Any], error: type[RequestError], param: str) -> None:
    refused = refusal(value)
    assert type(refused) is error
    assert refused.param == param


def test_an_unknown_type_is_told_the_known_ones_and_cut() -> None:
    message = refusal({"type": "x" * 100_000}).message
    assert all(name in message for name in PART_TYPES)
    assert len(message) < 300
