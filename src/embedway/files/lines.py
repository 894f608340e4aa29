"""The lines of a file, whatever it is packed with, and how far into the file they are."""

from __future__ import annotations

import codecs
from collections.abc import Iterator

import pyarrow as pa

MAX_LINE = 64 << 20
"""Bytes of a line: a file without an end of line is not collected"""


class Lines:
    """A file's, without their ends and the mark of UTF-8; what is compressed, unpacked."""

    def __init__(self, file: pa.NativeFile, block_size: int = 1 << 20) -> None:
        self._file, self._block_size = file, block_size
        self.position = 0
        """Bytes of the file up to the last line that was given, about so where it is compressed"""
        self.have_ended = False

    def __iter__(self) -> Iterator[bytes]:
        """Raises OSError for UTF-16 and a line of more than MAX_LINE bytes."""
        size, number = self._file.size(), 0
        compression = compression_of(self._file)
        stream = pa.CompressedInputStream(self._file, compression) if compression else self._file
        rest, begin = b"", 0
        while block := stream.read(self._block_size):
            end = size if self._file.closed else self._file.tell()  # what unpacks it closes it at its end
            if not begin:
                block = _without_mark(block)
            *lines, rest = (rest + block).split(b"\n")
            given, total = 0, sum(map(len, lines)) + len(lines) + len(rest)
            for line in lines:
                number += 1
                given += len(line) + 1
                self.position = begin + (end - begin) * given // total
                yield line.removesuffix(b"\r")
            begin = end
            if len(rest) > MAX_LINE:
                raise OSError(f"line {number + 1} has more than {MAX_LINE} bytes")
        self.position = size
        if rest:
            yield rest.removesuffix(b"\r")
        self.have_ended = True


def _without_mark(start: bytes) -> bytes:
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise OSError("it is UTF-16: files must be UTF-8")
    return start.removeprefix(codecs.BOM_UTF8)


MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}


def compression_of(file: pa.NativeFile) -> str | None:
    """By its first bytes; the file is at its beginning again."""
    start = file.read(4)
    file.seek(0)
    return next((name for magic, name in MAGIC.items() if start.startswith(magic)), None)
