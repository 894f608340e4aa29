from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedway.errors import (
    EmptyInput,
    InvalidType,
    InvalidValue,
    MediaNotSupported,
    RequestError,
    TooManyItems,
)
from embedway.inputs.items import Items, parse_input
from embedway.inputs.json_types import describe_json_type
from embedway.visual import MediaRef


def parse(json: str, max_items: int = 2048) -> Items:
    return parse_input(orjson.loads(json), max_items=max_items)


def refusal(json: str, max_items: int = 2048) -> RequestError:
    with pytest.raises(RequestError) as caught:
        parse(json, max_items)
    return caught.value


@pytest.mark.parametrize(
    ("json", "texts", "names"),
    [
        ('"a"', ["a"], ["input"]),
        ('["a"]', ["a"], ["input[0]"]),
        ('["a", " b "]', ["a", " b "], ["input[0]", "input[1]"]),
        ('{"text": "a"}', ["a"], ["input.text"]),
        ('[{"text": "a"}, {"text": "b"}]', ["a", "b"], ["input[0].text", "input[1].text"]),
    ],
)
def test_texts_keep_their_order_and_the_names_of_their_places(json: str, texts: list[str], names: list[str]) -> None:
    items = parse(json)
    assert items.is_text
    assert items.texts == texts
    assert [items.param(i) for i in range(len(items))] == names


@pytest.mark.parametrize(
    ("json", "token_ids", "names"),
    [
        ("[7]", [[7]], ["input"]),
        ("[1, 2, 3]", [[1, 2, 3]], ["input"]),
        ("[[1]]", [[1]], ["input[0]"]),
        ("[[1, 2], [3]]", [[1, 2], [3]], ["input[0]", "input[1]"]),
    ],
)
def test_token_ids_are_one_item_a_list(json: str, token_ids: list[list[int]], names: list[str]) -> None:
    items = parse(json)
    assert not items.is_text
    assert items.token_ids == token_ids
    assert [items.param(i) for i in range(len(items))] == names


@pytest.mark.parametrize("json", ['"a"', '{"text": "a"}', "[1, 2]"])
def test_a_bare_item_is_single(json: str) -> None:
    assert parse(json).is_single


@pytest.mark.parametrize("json", ['["a"]', '[{"text": "a"}]', "[[1, 2]]"])
def test_an_array_of_one_is_not_single(json: str) -> None:
    assert not parse(json).is_single


def test_a_string_and_an_object_with_it_are_the_same_text() -> None:
    assert parse('"same"').texts == parse('{"text": "same"}').texts == parse('[{"text": "same"}]').texts


def test_names_begin_with_the_field_that_was_read() -> None:
    assert parse_input(["a"], max_items=1, field="prompt").param(0) == "prompt[0]"


def test_characters_or_token_ids_are_counted_over_all_items() -> None:
    assert parse('["abc", "é"]').size == 4
    assert parse("[1, 2]").size == parse("[[1], [2]]").size == 2


@pytest.mark.parametrize(
    ("json", "param", "what"),
    [
        ("[]", "input", "an empty array"),
        ("[[]]", "input[0]", "an empty array"),
        ("[[1], []]", "input[1]", "an empty array"),
        ('""', "input", "an empty string"),
        ('["a", ""]', "input[1]", "an empty string"),
        ('" \\n\\t"', "input", "only whitespace"),
        ('["a", "\\u3000\\u00a0\\u2003"]', "input[1]", "only whitespace"),
        ('{"text": ""}', "input.text", "an empty string"),
        ('[{"text": "a"}, {"text": " "}]', "input[1].text", "only whitespace"),
    ],
)
def test_nothing_to_embed_is_refused_by_its_place(json: str, param: str, what: str) -> None:
    error = refusal(json)
    assert isinstance(error, EmptyInput)
    assert error.param == param
    assert f"is {what}:" in error.message


def test_zero_width_characters_are_a_text() -> None:
    assert parse('"\\u200b"').texts == ["\u200b"]


@pytest.mark.parametrize(
    ("json", "param", "got"),
    [
        ("null", "input", "null"),
        ("5", "input", "an integer"),
        ("1.5", "input", "a number with a fraction"),
        ("true", "input", "true"),
        ("[true]", "input[0]", "true"),
        ("[false, 1]", "input[0]", "false"),
        ("[1, true]", "input[1]", "true"),
        ("[1.0]", "input[0]", "a number with a fraction"),
        ("[1, 2.0]", "input[1]", "a number with a fraction"),
        ("[18446744073709551616]", "input[0]", "a number beyond 64 bits"),
        ("[null]", "input[0]", "null"),
        ('[1, "2"]', "input[1]", "a string"),
        ('["1", 2]', "input[1]", "an integer"),
        ('["a", null]', "input[1]", "null"),
        ('["a", {"text": "b"}]', "input[1]", "an object"),
        ('[{"text": "b"}, "a"]', "input[1]", "a string"),
        ("[1, [2]]", "input[1]", "an array"),
        ("[[1], 2]", "input[1]", "an integer"),
        ('[[1], "a"]', "input[1]", "a string"),
        ("[[[1]]]", "input[0][0]", "an array"),
        ("[[1], [2, true]]", "input[1][1]", "true"),
        ('[["a"]]', "input[0][0]", "a string"),
        ("[[1.0]]", "input[0][0]", "a number with a fraction"),
        ("[[null]]", "input[0][0]", "null"),
        ('{"text": 5}', "input.text", "an integer"),
        ('{"text": null}', "input.text", "null"),
        ('[{"text": ["a"]}]', "input[0].text", "an array"),
    ],
)
def test_a_wrong_type_is_refused_by_its_place_and_in_jsons_words(json: str, param: str, got: str) -> None:
    error = refusal(json)
    assert isinstance(error, InvalidType)
    assert error.param == param
    assert error.message.startswith(f"'{param}' must be ")
    assert error.message.endswith(f", but it is {got}.")


def test_a_mixed_list_is_compared_with_its_first_element() -> None:
    assert refusal('[1, "2"]').message == (
        "'input[1]' must be a token id (an integer), as input[0] is, but it is a string."
    )


def test_media_stay_with_their_items_and_keep_the_names_of_their_places() -> None:
    items = parse('[{"text": "a"}, {"image": "x.png"}, {"video": "y.mp4", "text": "b", "image": "z.png"}]')
    assert items.texts == ["a", "", "b"]
    assert [items.param(i) for i in range(3)] == ["input[0].text", "input[1]", "input[2]"]
    assert items.media == {
        1: (MediaRef("image", "x.png", "input[1].image"),),
        2: (MediaRef("image", "z.png", "input[2].image"), MediaRef("video", "y.mp4", "input[2].video")),
    }


@pytest.mark.parametrize(
    ("json", "param"),
    [
        ('{"image": "x.png"}', "input.image"),
        ('[{"text": "a", "image": "x.png"}]', "input[0].image"),
        ('[{"text": "a"}, {"text": "a", "video": "x.mp4"}]', "input[1].video"),
    ],
)
def test_where_only_text_is_read_the_first_media_are_refused_even_next_to_a_text(json: str, param: str) -> None:
    with pytest.raises(MediaNotSupported) as caught:
        parse(json).require_text_only()
    assert caught.value.param == param


def test_text_alone_is_text_only() -> None:
    parse('[{"text": "a"}]').require_text_only()


def test_a_null_image_is_no_image() -> None:
    assert parse('{"text": "a", "image": null, "video": null}').texts == ["a"]


def test_unknown_keys_next_to_a_text_are_ignored() -> None:
    assert parse('[{"type": "text", "text": "a"}]').texts == ["a"]


@pytest.mark.parametrize(
    ("json", "param", "end"),
    [
        ("{}", "input", "but it is empty."),
        ('[{"text": "a"}, {}]', "input[1]", "but it is empty."),
        ('[{"img": "x", "name": "y"}]', "input[0]", "but it has 'img', 'name'."),
        ('{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1,"g":1}', "input", "has 'a', 'b', 'c', 'd', 'e' and 2 more."),
    ],
)
def test_an_object_without_a_known_key_is_told_the_keys(json: str, param: str, end: str) -> None:
    error = refusal(json)
    assert isinstance(error, InvalidValue)
    assert error.param == param
    assert error.message.startswith(f"'{param}' must have 'text'")
    assert error.message.endswith(end)


def test_a_very_long_key_does_not_make_a_very_long_message() -> None:
    assert len(refusal(f'{{"{"k" * 100_000}": 1}}').message) < 300


@pytest.mark.parametrize(
    "json", ['["a", "b", "c"]', "[[1], [2], [3]]", '[{"text": "a"}, {"text": "b"}, {"text": "c"}]']
)
def test_more_items_than_the_limit_are_refused(json: str) -> None:
    assert len(parse(json, max_items=3)) == 3
    error = refusal(json, max_items=2)
    assert isinstance(error, TooManyItems)
    assert error.param == "input"
    assert "has 3 items" in error.message
    assert "at most 2" in error.message


def test_the_ids_of_one_item_are_not_counted_as_items() -> None:
    assert len(parse("[1, 2, 3]", max_items=1)) == 1


KEYS = ["text", "image", "video", "x", "type", "content", "image_url"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner),
    max_leaves=6,
)


def outcome(value: object) -> Items | RequestError:
    try:
        return parse_input(value, max_items=3)
    except RequestError as error:
        return error


@given(JSON)
def test_any_json_gives_items_of_exact_types_or_a_named_refusal(value: object) -> None:
    items = outcome(value)
    if isinstance(items, RequestError):
        assert items.status == 400
        assert (items.param or "").startswith("input")
        return
    assert 1 <= len(items) <= 3
    assert bool(items.texts) != bool(items.token_ids)
    assert all(type(text) is str and (text.strip() or i in items.media) for i, text in enumerate(items.texts))
    assert all(ref.given for refs in items.media.values() for ref in refs)
    assert all(ids and all(type(token_id) is int for token_id in ids) for ids in items.token_ids)


@given(JSON)
def test_a_json_type_is_never_described_in_pythons_words(value: object) -> None:
    assert type(value).__name__ not in describe_json_type(value).split()


def test_items_keep_their_number_and_names_without_their_texts() -> None:
    items = parse_input(["a", "b"], max_items=2)
    items.let_go_of_texts()
    assert (items.texts, len(items), items.is_text, items.param(1)) == (["", ""], 2, True, "input[1]")
