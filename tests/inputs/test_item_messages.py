from __future__ import annotations

import pytest

from embedway.errors import EmptyInput, InvalidType, InvalidValue, RequestError
from embedway.inputs.item_messages import parse_messages
from embedway.visual import MediaRef

USER = {
    "role": "user",
    "content": [{"type": "image_url", "image_url": {"url": "i"}}, {"type": "text", "text": "a"}],
}
SYSTEM = {"role": "system", "content": [{"type": "text", "text": "Represent it."}]}
ASSISTANT = {"role": "assistant", "content": [{"type": "text", "text": ""}]}


@pytest.mark.parametrize(
    ("messages", "place", "instruction"),
    [
        ([USER], 0, None),
        ([SYSTEM, USER], 1, "Represent it."),
        ([{"role": "system", "content": "Represent it."}, USER, ASSISTANT], 1, "Represent it."),
        ([USER, {"role": "assistant", "content": ""}], 0, None),
        ([{"role": "system", "content": ""}, USER], 1, None),
    ],
)
def test_a_users_message_is_one_item(messages: list[object], place: int, instruction: str | None) -> None:
    chat = parse_messages(messages)
    assert chat.instruction == instruction
    assert chat.item.texts == ["a"]
    assert chat.item.is_single
    assert chat.item.media == {0: (MediaRef("image", "i", f"messages[{place}].content[0].image_url.url"),)}


def test_a_text_alone_is_named_by_its_place() -> None:
    assert parse_messages([{"role": "user", "content": "a"}]).item.param(0) == "messages[0].content"


@pytest.mark.parametrize(
    ("messages", "error", "param"),
    [
        ("a", InvalidType, "messages"),
        ([], EmptyInput, "messages"),
        (["a"], InvalidType, "messages[0]"),
        ([{"content": "a"}], InvalidValue, "messages[0].role"),
        ([{"role": "tool", "content": "a"}], InvalidValue, "messages[0].role"),
        ([{"role": "user"}], InvalidValue, "messages[0]"),
        ([SYSTEM], InvalidValue, "messages"),
        ([USER, USER], InvalidValue, "messages"),
        ([USER, SYSTEM], InvalidValue, "messages"),
        ([USER, {"role": "assistant", "content": "an answer"}], InvalidValue, "messages[1].content"),
        ([USER, {"role": "assistant", "content": ["x"]}], InvalidValue, "messages[1].content"),
        ([{"role": "system", "content": [{"image": "i"}]}, USER], InvalidValue, "messages[0].content"),
        ([{"role": "user", "content": ""}], EmptyInput, "messages[0].content"),
        ([{"role": "user", "content": [{"type": "audio"}]}], InvalidValue, "messages[0].content[0].type"),
    ],
)
def test_what_is_no_single_item_is_refused_by_its_place(
    messages: object, error: type[RequestError], param: str
) -> None:
    with pytest.raises(RequestError) as caught:
        parse_messages(messages)
    assert type(caught.value) is error
    assert caught.value.param == param
