"""The bytes of a file that a client named by its path, if the operator opened its folder."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from embedway.allowed_folders import resolve_within
from embedway.errors import MediaNotAllowed, MediaTooLarge, MediaUnreadable
from embedway.media.rules import MediaRules
from embedway.visual import KIND_IN_WORDS, MediaKind


def read_local_file(path: str, rules: MediaRules, *, kind: MediaKind, param: str) -> bytes:
    """Blocks. Raises MediaNotAllowed, whether or not there is such a file, MediaUnreadable or MediaTooLarge."""
    if not rules.local_roots:
        problem = "local files are closed, since the server was started without --allowed-local-media-path"
        raise MediaNotAllowed(param=param, problem=problem)
    file = resolve_within(path, rules.local_roots)
    if file is None:
        problem = "local files are closed but for those under an --allowed-local-media-path"
        raise MediaNotAllowed(param=param, problem=problem)
    try:
        data = _read_regular(file, rules.max_bytes + 1)
    except OSError as error:
        problem = f"the file cannot be read ({(error.strerror or 'unknown cause').lower()})"
        raise MediaUnreadable(param=param, kind=KIND_IN_WORDS[kind], problem=problem) from error
    if len(data) > rules.max_bytes:
        limit = f"{rules.max_bytes} bytes"
        raise MediaTooLarge(param=param, problem="is a larger file", limit=limit, flag="--max-media-mb")
    return data


def _read_regular(file: Path, most: int) -> bytes:
    """At most so many bytes of a regular file: a pipe or device could keep us waiting, or never end.

    Raises OSError. `file` is resolved: a link there now was put in its place just now, and is not followed.
    """
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as opened:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "Not a regular file")
        return opened.read(most)
