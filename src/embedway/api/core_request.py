"""A request of our own to the application's core, behind all layers: as ASGI has it, from no connection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import Scope


def core_request(
    method: str, path: str, *, headers: Sequence[tuple[bytes, bytes]] = (), state: Mapping[str, Any] | None = None
) -> Scope:
    """`state`: what the layers would have put there, which are not asked."""
    return {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": list(headers),
        "state": dict(state or {}),
    }
