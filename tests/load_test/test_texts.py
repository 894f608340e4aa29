from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from embedway.errors import InvalidSetting
from embedway.load_test.request_bodies import write_requests
from embedway.load_test.target import read_target
from embedway.load_test.texts import made_up, read_texts


def test_no_two_made_up_texts_are_alike_in_a_measurement_or_in_the_next_one() -> None:
    texts = [*itertools.islice(made_up(1), 2000)]
    assert len(set(texts)) == 2000
    assert set(itertools.islice(made_up(8), 2000)).isdisjoint(itertools.islice(made_up(8), 2000))


def test_a_seed_repeats_them() -> None:
    first, second = made_up(5, seed=1), made_up(5, seed=1)
    assert list(itertools.islice(first, 50)) == list(itertools.islice(second, 50))


def test_made_up_texts_have_about_as_many_words_as_are_wanted() -> None:
    lengths = [len(text.split()) - 1 for text in itertools.islice(made_up(10), 500)]  # the number makes them differ
    assert (min(lengths), max(lengths)) == (5, 15)


def test_a_file_has_a_text_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\n\n two \n")
    assert read_texts(path) == ["one", " two "]


def test_a_jsonl_file_has_strings_or_objects_with_a_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('"one\\nline"\n{"text": "two", "id": 3}\n')
    assert read_texts(path) == ["one\nline", "two"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"\n\n", "has no text"),
        ("a.txt", b"\xff\xfe", "cannot be read"),
        ("a.jsonl", b'"one"\n{"text": 2}\n', "line 2 is neither"),
        ("a.jsonl", b"one\n", "line 1 is not valid JSON"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_fault(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InvalidSetting, match=f"--input: .*{says}"):
        read_texts(path)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match=r"--input: .*No such file"):
        read_texts(tmp_path / "none")


@pytest.mark.parametrize(("size", "inputs"), [(1, ["a", "b", "c"]), (2, [["a", "b"], ["c"]])])
def test_one_text_goes_as_a_string_and_several_as_a_list(size: int, inputs: list[object]) -> None:
    requests = write_requests(
        read_target("http://host", None), iter("abc"), model="m", items_per_request=size, encoding_format="base64"
    )
    heads, bodies = zip(*(request.split(b"\r\n\r\n") for request in requests), strict=True)
    assert [json.loads(body)["input"] for body in bodies] == inputs
    assert json.loads(bodies[0]) == {"model": "m", "input": inputs[0], "encoding_format": "base64"}
    assert f"Content-Length: {len(bodies[0])}\r\n".encode() in heads[0] + b"\r\n"
