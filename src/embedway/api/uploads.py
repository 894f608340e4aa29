"""A multipart body → a file on the disk and the fields beside it, as it comes: nothing of the file stays in memory."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from embedway.api.headers import header
from embedway.batches.file_folder import sync, write_all
from embedway.errors import FileTooLarge, InvalidMultipart, MissingField, UnsupportedMediaType

if TYPE_CHECKING:
    from fastapi import Request

    from embedway.batches.storage import Storage

FORM = "multipart/form-data"
MAX_FIELDS, MAX_FIELD_BYTES = 16, 1024
FORM_BYTES = 2**16
"""Of a body beside its file: fields, boundaries and headers"""
WRITE_BYTES = 2**20
LONGEST_NAME = 255
"""Characters of a file's name, which is only ever shown"""


@dataclass(slots=True)
class Upload:
    """What has come so far."""

    filename: str | None = None
    """None: there is no file yet"""
    num_bytes: int = 0
    """Of the file"""
    fields: dict[str, str] = field(default_factory=dict)


class UploadParser:
    """Bytes of the body in, bytes of the file out. Knows nothing of disks."""

    def __init__(self, boundary: bytes, max_bytes: int) -> None:
        self.upload = Upload()
        self._max_bytes = max_bytes
        self._file_data: list[bytes] = []
        self._is_whole = False
        self._header: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        """Name and value of the one that is being read"""
        self._disposition = b""
        self._is_file = False
        self._name, self._value = "", bytearray()
        """Of the field that is being read"""
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
        )

    def feed(self, chunk: bytes) -> bytes:
        """What of the file is in it. Raises InvalidMultipart or FileTooLarge."""
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise InvalidMultipart(problem=str(error).rstrip(".")) from None
        data, self._file_data = b"".join(self._file_data), []
        return data

    def end(self) -> Upload:
        """Raises InvalidMultipart where the body is not whole, MissingField without a file."""
        if not self._is_whole:
            raise InvalidMultipart(problem="it ends before its last boundary")
        if self.upload.filename is None:
            raise MissingField(param="file")
        return self.upload

    def _on_part_begin(self) -> None:
        self._disposition, self._is_file, self._name, self._value = b"", False, "", bytearray()
        if len(self.upload.fields) >= MAX_FIELDS:
            raise InvalidMultipart(problem=f"it has more than {MAX_FIELDS} fields")

    def _on_header_end(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            self._disposition = bytes(value)
        self._header = (bytearray(), bytearray())

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode(errors="replace")
        if not self._name:
            raise InvalidMultipart(problem="a part has no name")
        self._is_file = self._name == "file"
        if self._is_file:
            if self.upload.filename is not None:
                raise InvalidMultipart(problem="it has two files")
            given = options.get(b"filename", b"").decode(errors="replace")
            self.upload.filename = given.replace("\\", "/").rpartition("/")[2][:LONGEST_NAME] or "file"

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if not self._is_file:
            self._value += data[start:end]
            if len(self._value) > MAX_FIELD_BYTES:
                raise InvalidMultipart(problem=f"a field has more than {MAX_FIELD_BYTES} bytes")
            return
        self.upload.num_bytes += end - start
        if self.upload.num_bytes > self._max_bytes:
            raise FileTooLarge(param="file", limit=self._max_bytes)
        self._file_data.append(data[start:end])

    def _on_part_end(self) -> None:
        if not self._is_file:
            self.upload.fields[self._name] = self._value.decode(errors="replace")

    def _on_end(self) -> None:
        self._is_whole = True


@contextlib.asynccontextmanager
async def received(request: Request, storage: Storage, file_id: str, max_bytes: int) -> AsyncGenerator[Upload]:
    """A request's upload, whole and safely on the disk under `file_id`; removed where the block raises.

    Raises UnsupportedMediaType, InvalidMultipart, FileTooLarge, MissingField, StorageFull or BatchStorageFault.
    """
    parser = UploadParser(_boundary(request), max_bytes)
    if int(header(request.scope, b"content-length") or 0) > max_bytes + FORM_BYTES:
        raise FileTooLarge(param="file", limit=max_bytes)
    file = await storage.on_disk(lambda: storage.files.create(file_id))
    try:
        with file:
            await _write(request, storage, parser, file)
        yield parser.end()
    except BaseException:
        await storage.on_disk(lambda: storage.files.remove(file_id))
        raise


async def _write(request: Request, storage: Storage, parser: UploadParser, file: BinaryIO) -> None:
    waiting, num_read = bytearray(), 0

    async def write(data: bytes) -> None:
        await storage.on_disk(lambda: write_all(file, data))

    async for chunk in request.stream():
        num_read += len(chunk)
        if num_read > parser.upload.num_bytes + FORM_BYTES + len(chunk):
            raise InvalidMultipart(problem=f"it has more than {FORM_BYTES} bytes beside its file")
        waiting += parser.feed(chunk)
        if len(waiting) >= WRITE_BYTES:
            await write(bytes(waiting))
            waiting.clear()
    await write(bytes(waiting))
    await storage.on_disk(lambda: sync(file))


def _boundary(request: Request) -> bytes:
    given = header(request.scope, b"content-type") or ""
    kind, options = parse_options_header(given)
    if kind != FORM.encode():
        raise UnsupportedMediaType(got=given, expected=FORM)
    if not options.get(b"boundary"):
        raise InvalidMultipart(problem="its content type names no boundary")
    return options[b"boundary"]
