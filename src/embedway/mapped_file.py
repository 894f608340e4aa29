"""Files that processes write as memory and others read."""

from __future__ import annotations

import mmap
import os
from pathlib import Path


def new_mapped_file(path: Path, size: int) -> mmap.mmap:
    """A file of so many zeros, in memory. Raises OSError where the disk has no room for all of them.

    Found out later, as a hole is written to, that would end the process (SIGBUS).
    """
    with path.open("w+b") as file:
        if hasattr(os, "posix_fallocate"):  # not on macOS
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.write(bytes(size))
            file.flush()
        return mmap.mmap(file.fileno(), size)
