from __future__ import annotations

import base64

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from embedway.errors import EmptyInput, InvalidValue
from embedway.media.source_form import Base64, LocalFile, PercentEncoded, Remote, SourceForm, read_form

JPEG = base64.b64encode(b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(300)).decode()


@pytest.mark.parametrize(
    ("given_text", "form"),
    [
        ("http://a.example/b.png", Remote("http://a.example/b.png")),
        (" HTTPS://a.example/\n", Remote("HTTPS://a.example/")),
        ("/srv/photos/cat.jpg", LocalFile("/srv/photos/cat.jpg")),
        ("/srv/photos/cat", LocalFile("/srv/photos/cat")),
        ("/9j/cat.jpg", LocalFile("/9j/cat.jpg")),
        ("file:///srv/a%20b.jpg", LocalFile("/srv/a b.jpg")),
        ("file:///srv/a b.jpg", LocalFile("/srv/a b.jpg")),
        ("FILE://LocalHost/srv/a.jpg", LocalFile("/srv/a.jpg")),
        ("file:/srv/a.jpg", LocalFile("/srv/a.jpg")),
        ("file:///9j/photo", LocalFile("/9j/photo")),
        ("file:///srv/a#1?.jpg", LocalFile("/srv/a#1?.jpg")),
        ("file:///srv/%ff.jpg", LocalFile("/srv/\udcff.jpg")),
        ("data:image/png;base64,iVBO", Base64("iVBO", is_percent_encoded=True)),
        ("DATA:image/png;charset=x;name=y;BASE64,iVBO", Base64("iVBO", is_percent_encoded=True)),
        ("data:;base64,iVBO", Base64("iVBO", is_percent_encoded=True)),
        ("data:image/svg+xml,%3Csvg%3E", PercentEncoded("%3Csvg%3E")),
        ("data:,base64,x", PercentEncoded("base64,x")),
        ("iVBORw0KGgo=", Base64("iVBORw0KGgo=")),
        ("iVBO\nRw0K", Base64("iVBO\nRw0K")),
        ("_9j_4AAQ-A", Base64("_9j_4AAQ-A")),
        (JPEG, Base64(JPEG)),
        ("/wAA" + "/" * 5000, Base64("/wAA" + "/" * 5000)),
    ],
)
def test_the_beginning_says_what_it_is(given_text: str, form: SourceForm) -> None:
    assert read_form(given_text, param="input[0].image") == form


@pytest.mark.parametrize(
    "given_text",
    [
        *("cat.jpg", "./cat.jpg", "../cat.jpg", "~/cat.jpg", "photos\\cat", "C:\\cat.jpg", "<svg>", "ftp://a/b.png"),
        *(
            "javascript:alert(1)",
            "gopher://a/",
            "about:blank",
            "x:y",
            "file://cat.jpg",
            "file://host/cat.jpg",
            "file:cat.jpg",
        ),
        *(
            "file:",
            "file://",
            "/a\0b",
            "file:///a%00b",
            "data:image/png;base64",
            "data:",
            "/\ud800.x",
        ),
        *("data:" + "x" * 2000 + ",abc", "file:///" + "x" * 20_000, "a:" + "x" * 100_000),
    ],
)
def test_anything_else_is_refused_by_name_and_not_repeated(given_text: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        read_form(given_text, param="input[3].video")
    assert "input[3].video" in caught.value.message
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("given_text", ["", " ", "\n\t"])
def test_an_empty_string_is_refused(given_text: str) -> None:
    with pytest.raises(EmptyInput):
        read_form(given_text, param="input[0].image")


@given(st.text() | st.builds("{}:{}".format, st.sampled_from(["data", "file", "http", "/9j/", "file:///"]), st.text()))
@example("/9j/" + "\0")
def test_any_text_is_a_form_or_refused(text: str) -> None:
    try:
        form = read_form(text, param="input")
    except (EmptyInput, InvalidValue):
        return
    if isinstance(form, LocalFile):
        assert form.path.startswith("/")
        assert "\0" not in form.path


@given(st.binary(min_size=1, max_size=200), st.booleans())
def test_base64_of_a_jpeg_or_of_anything_that_begins_with_another_byte_is_never_a_path(
    data: bytes, is_jpeg: bool
) -> None:
    data = b"\xff\xd8\xff" + data if is_jpeg else bytes([data[0] & 0x7F]) + data
    assert isinstance(read_form(base64.b64encode(data).decode(), param="input"), Base64)
