from __future__ import annotations

import base64
import contextlib
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedway.errors import MediaTooLarge, MediaUnreadable
from embedway.media import inline_data
from embedway.media.inline_data import decode_inline
from embedway.media.source_form import Base64, InlineData, PercentEncoded


def decode(data: InlineData, max_bytes: int = 10_000_000) -> bytes:
    return decode_inline(data, max_bytes=max_bytes, kind="image", param="input[0].image")


@pytest.fixture(params=[5, 2**18], ids=["small pieces", "one piece"])
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inline_data, "PIECE", request.param)


@pytest.mark.usefixtures("piece")
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize("spaces", ["", "\n", "\r\n", " \t"])
@pytest.mark.parametrize("is_padded", [True, False])
@pytest.mark.parametrize("is_quoted", [True, False])
def test_every_form_of_base64_gives_its_bytes(encode, spaces, is_padded, is_quoted) -> None:
    for size in range(20):
        data = bytes(range(255, 255 - size, -1))
        text = encode(data).decode()
        text = text if is_padded else text.rstrip("=")
        text = spaces.join(text) + spaces
        assert decode(Base64(quote(text, safe="") if is_quoted else text, is_percent_encoded=is_quoted)) == data


@given(st.binary(max_size=3000), st.integers(1, 2000))
def test_pieces_do_not_show(data: bytes, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inline_data, "PIECE", size)
        assert decode(Base64(base64.encodebytes(data).decode())) == data
        assert decode(PercentEncoded(quote(data))) == data
        assert decode(PercentEncoded("".join(f"%{byte:02x}" for byte in data))) == data


@pytest.mark.usefixtures("piece")
@pytest.mark.parametrize(
    "text",
    [
        "A",
        "AAAAA",
        "A=",
        "AA=A",
        "AA==AAAA",
        "AAA=AAAA",
        "AAAA====",
        "AA===",
        "AAA==",
        "=",
        "=AAA",
        "AA*A",
        "AAé",
        "AA\x00A",
        "%41",
    ],
)
def test_what_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(MediaUnreadable, match="base64"):
        decode(Base64(text))


@pytest.mark.usefixtures("piece")
@pytest.mark.parametrize("text", ["%", "%4", "%zz", "%4g", "%:0", "%g4", "%%41", "abc%%", "aaaa%4", "é", "\ud800"])
def test_what_is_not_validly_percent_encoded_is_refused(text: str) -> None:
    with pytest.raises(MediaUnreadable, match="percent"):
        decode(PercentEncoded(text))


@given(st.text(max_size=50), st.booleans())
def test_any_text_is_decoded_within_the_limit_or_refused(text: str, is_base64: bool) -> None:
    with contextlib.suppress(MediaTooLarge, MediaUnreadable):
        assert len(decode(Base64(text, True) if is_base64 else PercentEncoded(text), max_bytes=20)) <= 20


@pytest.mark.parametrize("size", range(95, 106))
def test_the_limit_counts_bytes_not_letters(size: int) -> None:
    text = base64.b64encode(bytes(size)).decode()
    forms = (Base64(text), Base64(text.rstrip("=")), Base64("\r\n".join(text)), PercentEncoded("%00" * size))
    for form in forms:
        if size <= 100:
            assert decode(form, max_bytes=100) == bytes(size)
        else:
            with pytest.raises(MediaTooLarge, match=f"has {size} bytes"):
                decode(form, max_bytes=100)


def test_the_limit_is_known_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inline_data, "_decode", lambda data: pytest.fail("it was decoded"))
    with pytest.raises(MediaTooLarge):
        decode(Base64("A" * 1000), max_bytes=100)
