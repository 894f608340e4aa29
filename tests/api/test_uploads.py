"""Multipart bodies: what is in them comes out whole, however they are cut, and what is wrong is said."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedway.api.uploads import UploadParser
from embedway.batches.storage import make_data_dir
from embedway.errors import FileTooLarge, InvalidMultipart, MissingField

Connect = Callable[..., contextlib.AbstractAsyncContextManager[httpx.AsyncClient]]
BOUNDARY = "----boundary"


def part(name: str, data: bytes, filename: str | None = None) -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"'
    head += "" if filename is None else f'; filename="{filename}"\r\nContent-Type: application/octet-stream'
    return head.encode() + b"\r\n\r\n" + data + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()
PURPOSE = part("purpose", b"batch")


def parsed(body: bytes, sizes: list[int], limit: int = 2**20) -> tuple[UploadParser, bytes]:
    parser, data = UploadParser(BOUNDARY.encode(), limit), b""
    while body:
        size = sizes.pop() if sizes else len(body)
        data += parser.feed(body[:size])
        body = body[size:]
    return parser, data


pieces = st.lists(st.binary(max_size=20) | st.sampled_from([b"\r\n", b"--", BOUNDARY.encode(), b"\r\n--"]), max_size=8)


@settings(max_examples=60)
@given(pieces.map(b"".join), st.lists(st.integers(1, 40), max_size=40))
def test_a_file_is_the_same_however_its_body_is_cut(data: bytes, sizes: list[int]) -> None:
    if f"\r\n--{BOUNDARY}".encode() in b"\r\n" + data:
        return
    parser, found = parsed(part("file", data, "a.jsonl") + PURPOSE + END, sizes)
    upload = parser.end()
    assert found == data
    assert (upload.filename, upload.num_bytes, upload.fields) == ("a.jsonl", len(data), {"purpose": "batch"})


@pytest.mark.parametrize(
    ("name", "shown"),
    [("../../etc/passwd", "passwd"), ("C:\\\\x\\\\a.jsonl", "a.jsonl"), ("", "file"), ("n" * 900, "n" * 255)],
)
def test_of_a_path_only_the_name_is_shown(name: str, shown: str) -> None:
    assert parsed(part("file", b"", name) + END, [])[0].end().filename == shown


@pytest.mark.parametrize(
    ("body", "error", "says"),
    [
        (part("file", b"a", "a"), InvalidMultipart, "last boundary"),
        (b"nonsense", InvalidMultipart, "boundary"),
        (PURPOSE + END, MissingField, "file"),
        (part("file", b"a", "a") * 2 + END, InvalidMultipart, "two files"),
        (part("", b"a") + END, InvalidMultipart, "no name"),
        (part("a", b"x" * 2000) + END, InvalidMultipart, "1024 bytes"),
        (b"".join(part(str(i), b"") for i in range(20)) + END, InvalidMultipart, "16 fields"),
        (part("file", b"x" * 11, "a") + END, FileTooLarge, "10 bytes"),
    ],
)
def test_what_is_wrong_with_a_body_is_said(body: bytes, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        parsed(body, [], limit=10)[0].end()


async def test_what_is_refused_leaves_nothing_behind(connect: Connect, tmp_path: Path) -> None:
    make_data_dir(tmp_path / "data")

    async def chunks(*, until: int) -> AsyncIterator[bytes]:
        yield PURPOSE + part("file", b"", "a")[:-2]
        for _ in range(until):
            yield b"x" * 100_000
        yield b"\r\n" + END

    form = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    bad = PURPOSE + part("file", b"a" * 100_000, "a")
    wrong = part("purpose", b"fine-tune") + part("file", b"a", "a") + END
    dying = part("expires_after[anchor]", b"created_at") + part("expires_after[seconds]", b"5") + PURPOSE
    attempts = [
        (form, chunks(until=12), 413, "file_too_large"),
        (form, bad, 400, "invalid_multipart"),
        (form, wrong, 400, "invalid_value"),
        (form, dying + part("file", b"a", "a") + END, 400, "invalid_value"),
        (form, part("file", b"a", "a") + END, 400, "missing_field"),
        ({**form, "Content-Length": "9999999"}, b"", 413, "file_too_large"),
        ({"Content-Type": "application/json"}, b"{}", 415, "unsupported_media_type"),
        ({"Content-Type": "multipart/form-data"}, b"{}", 400, "invalid_multipart"),
    ]
    async with connect(data_dir=str(tmp_path / "data"), max_batch_file_mb=1, max_stored_mb=2) as client:
        for headers, content, status, code in attempts:
            response = await client.post("/v1/files", content=content, headers=headers)
            assert (response.status_code, response.json()["error"]["code"]) == (status, code)
        files = tmp_path / "data" / "files"
        assert not files.exists() or not any(True for _ in files.glob("*"))
        for expected in (200, 200, 507):
            response = await client.post("/v1/files", content=chunks(until=10), headers=form)
            assert response.status_code == expected, response.text
        assert len((await client.get("/v1/files")).json()["data"]) == len(list(files.glob("*"))) == 2
