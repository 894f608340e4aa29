"""Paths that requests name, and the folders that the operator opened to them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

MOST_LINKS = 40
"""As Linux has it (ELOOP)"""


def resolve_within(path: str, roots: Sequence[Path]) -> Path | None:
    """The place that an absolute path stands for, free of `..` and links, if it is in one of the roots; else None.

    Links are followed one by one, and one that leaves its root is not: nothing outside is even looked at.
    """
    spelled = os.path.normpath(path)
    for root in roots:
        spelled_root, real_root = os.path.abspath(str(root)), os.path.realpath(str(root))  # noqa: PTH100
        for start in dict.fromkeys((spelled_root, real_root)):
            inside = _below(spelled, start)
            if inside is not None:
                return _follow(real_root, inside)
    return None


def _follow(root: str, inside: str) -> Path | None:
    """Resolve the relative path `inside` below `root`, which has no links of its own."""
    place, left, num_links = root, Path(inside).parts, 0
    while left:
        entry = os.path.join(place, left[0])  # noqa: PTH118 - pathlib cannot normalise without following links
        try:
            target = os.path.normpath(os.path.join(place, os.readlink(entry)))  # noqa: PTH115, PTH118
        except OSError:  # no link
            place, left = entry, left[1:]
            continue
        num_links += 1
        below = _below(target, root)
        if below is None or num_links > MOST_LINKS:
            return None
        place, left = root, (*Path(below).parts, *left[1:])
    return Path(place)


def _below(path: str, folder: str) -> str | None:
    """`path` relative to `folder`; None where it is not inside. Both normalised."""
    if path == folder:
        return ""
    prefix = folder.rstrip(os.sep) + os.sep
    return path[len(prefix) :] if path.startswith(prefix) else None
