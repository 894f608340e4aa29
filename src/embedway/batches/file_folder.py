"""The bytes of files, each under its id in one folder of mode 0700: no name of a client's ever touches the disk."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import BinaryIO

UPLOAD_SECONDS = 3600.0
"""Without a byte written: what is no file by then is left over from a process that died"""


class FileFolder:
    """Its methods block, and raise OSError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, name: str) -> Path:
        assert name.replace("-", "").replace("_", "").replace(".", "").isalnum(), "names are our own"
        return self._folder / name

    def create(self, name: str) -> BinaryIO:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.path(name).open("xb", buffering=0)

    def open_at(self, name: str, length: int) -> BinaryIO:
        """Open it to go on behind its first `length` bytes: what came after them is dropped. It is made if need be."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.fdopen(os.open(self.path(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b", buffering=0)
        try:
            size = file.seek(0, os.SEEK_END)
            if size < length:
                raise OSError(f"{name} has {size} bytes of {length}")
            file.truncate(length)
            file.seek(length)
        except BaseException:
            file.close()
            raise
        return file

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.path(name).unlink()

    def remove_left_over(self, known: set[str]) -> None:
        """Remove what is in nobody's books any more, unless it is being written."""
        if not self._folder.is_dir():
            return
        for path in self._folder.iterdir():
            if path.name not in known:
                with contextlib.suppress(FileNotFoundError):  # another has removed it
                    if time.time() - path.stat().st_mtime > UPLOAD_SECONDS:
                        path.unlink()


def write_all(file: BinaryIO, data: bytes) -> None:
    """All of it: an unbuffered file may take less at once, as where the disk is nearly full."""
    view = memoryview(data)
    while view:
        written = file.write(view)
        assert written, "a blocking file takes some, or raises"
        view = view[written:]


def sync(file: BinaryIO) -> None:
    os.fsync(file.fileno())
