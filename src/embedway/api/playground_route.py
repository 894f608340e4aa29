"""The playground: a page at `/` that tries the served model, and the files that it is made of.

The files hold no data and no key, so they are open where the API needs a key, which is typed into the page.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request, Response

from embedway.api.headers import header
from embedway.errors import RouteNotFound

router = APIRouter(include_in_schema=False)

FOLDER = Path(__file__).parents[1] / "playground"
PAGE = "index.html"
CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
)
HEADERS = {
    "Cache-Control": "no-cache",  # kept, and asked for again with its ETag: a new version is never half an old one
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    content: bytes
    content_type: str
    etag: str


@functools.cache
def page_files() -> Mapping[str, PageFile]:
    """The files by their paths."""
    paths = sorted(path for path in FOLDER.iterdir() if path.suffix in CONTENT_TYPES)
    return {"/" if path.name == PAGE else f"/playground/{path.name}": _read(path) for path in paths}


def _read(path: Path) -> PageFile:
    content = path.read_bytes()
    return PageFile(content, CONTENT_TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')


@router.head("/")
@router.get("/")
@router.head("/playground/{name}")
@router.get("/playground/{name}")
async def send_file(request: Request) -> Response:
    file = page_files().get(request.url.path)
    if file is None:
        raise RouteNotFound(method=request.method, path=request.url.path)
    headers = {**HEADERS, "ETag": file.etag}
    if _has_version(header(request.scope, b"if-none-match"), file.etag):
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.content_type)


def _has_version(if_none_match: str | None, etag: str) -> bool:
    """A proxy that compresses makes an ETag a weak one."""
    given = [tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")]
    return etag in given or "*" in given
