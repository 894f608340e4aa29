from __future__ import annotations

import base64
import os
import threading
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from embedway.errors import EmptyInput, InvalidValue, MediaNotAllowed, MediaTooLarge, MediaUnreadable
from embedway.media import sources as sources_module
from embedway.media.sources import INLINE_CHARACTERS, MediaSources
from loopback_server import always, response, serving
from media_fetching import media_rules, to_loopback

JPEG = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 4
PARAM = "input[0].image"


@pytest.fixture
async def sources(tmp_path: Path) -> AsyncGenerator[MediaSources, None]:
    """A folder `open` with a file may be read, and `media.test` may be asked."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "cat.jpg").write_bytes(JPEG)
    (tmp_path / "open" / "empty").touch()
    rules = media_rules("media.test", roots=[tmp_path / "open"], max_bytes=10**6)
    made = MediaSources(rules, resolve=to_loopback)
    yield made
    await made.aclose()


async def test_each_form_gives_the_same_bytes(sources: MediaSources, tmp_path: Path) -> None:
    encoded = base64.b64encode(JPEG).decode()
    quoted = "".join(f"%{byte:02X}" for byte in JPEG)
    async with serving(always(response(JPEG))) as server:
        for given in (
            *(
                f"http://media.test:{server.port}/cat.jpg",
                f"file://{tmp_path}/open/cat.jpg",
                f"{tmp_path}/open/cat.jpg",
            ),
            *(encoded, encoded.rstrip("="), base64.urlsafe_b64encode(JPEG).decode(), base64.encodebytes(JPEG).decode()),
            *(f"data:image/jpeg;base64,{encoded}", f"DATA:image/jpeg;a=b;Base64,{encoded}", f"data:,{quoted}"),
        ):
            assert await sources.open(given, kind="image", param=PARAM) == JPEG, given[:40]


async def test_long_data_is_decoded_off_the_event_loop(sources: MediaSources, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []
    decode = sources_module.decode_inline

    def watched(*args, **kwargs) -> bytes:
        threads.append(threading.current_thread().name)
        return decode(*args, **kwargs)

    monkeypatch.setattr(sources_module, "decode_inline", watched)
    data = os.urandom(INLINE_CHARACTERS)
    for given in (base64.b64encode(data).decode(), "data:;base64," + base64.b64encode(data).decode()):
        assert await sources.open(given, kind="video", param=PARAM) == data
    assert await sources.open("AAAA", kind="video", param=PARAM) == bytes(3)
    assert [name.rstrip("0123456789_") for name in threads] == [
        "media-reader",
        "media-reader",
        threading.main_thread().name,
    ]


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ("", EmptyInput),
        ("cat.jpg", InvalidValue),
        ("ftp://a/b", InvalidValue),
        ("http://user@a/", InvalidValue),
        ("/etc/passwd", MediaNotAllowed),
        ("file:///etc/passwd", MediaNotAllowed),
        ("http://other.test/", MediaNotAllowed),
        ("AAAAA", MediaUnreadable),
        ("data:,", MediaUnreadable),
        ("data:;base64,", MediaUnreadable),
        ("====", MediaUnreadable),
        ("A" * 2_000_000, MediaTooLarge),
        ("A" * 200_000 + "*", MediaUnreadable),
        ("data:," + "x" * 2_000_000, MediaTooLarge),
        ("http://a.test/" + "x" * 2_000_000, InvalidValue),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else value.__name__,
)
async def test_what_cannot_be_read_is_told_in_short(sources: MediaSources, given: str, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        await sources.open(given, kind="image", param=PARAM)
    assert str(caught.value).startswith(f"'{PARAM}'")
    assert len(str(caught.value)) < 250


async def test_an_empty_file_is_refused(sources: MediaSources, tmp_path: Path) -> None:
    with pytest.raises(MediaUnreadable, match="empty"):
        await sources.open(str(tmp_path / "open" / "empty"), kind="image", param=PARAM)


async def test_the_system_is_asked_where_no_resolver_is_given() -> None:
    sources = MediaSources(media_rules())
    with pytest.raises(MediaNotAllowed, match="not public"):
        await sources.open("http://localhost/", kind="image", param=PARAM)
    await sources.aclose()
