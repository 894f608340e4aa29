"""A request's headers, read where they lie: the framework's objects decode them all."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Scope


def header(scope: Scope, name: bytes) -> str | None:
    """The first header of this name, which is in small letters; None where there is none."""
    for key, value in scope["headers"]:
        if key == name:
            return value.decode("latin-1")
    return None
