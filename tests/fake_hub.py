"""The Hugging Face Hub on loopback, and folders in the layout of its cache."""

from __future__ import annotations

import hashlib
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from huggingface_hub import constants

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"  # pragma: allowlist secret


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def write_cache(cache: Path, repo: str, files: dict[str, str]) -> Path:
    """A repository in the layout of the Hub cache."""
    repository = cache / f"models--{repo.replace('/', '--')}"
    write(repository, {"refs/main": COMMIT})
    return write(repository / "snapshots" / COMMIT, files)


@dataclass
class FakeHub:
    """The Hub's routes for a model: its revision, its files and their content."""

    files: dict[str, str] = field(default_factory=dict)
    status: int = 200
    error_code: str = ""
    asked: list[str] = field(default_factory=list)

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        self.asked.append(path)
        if self.status != 200:
            return self.status, {"X-Error-Code": self.error_code}, b"{}"
        if "/resolve/" in path:
            content = self.files[path.split(f"/resolve/{COMMIT}/")[1]].encode()
            return 200, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}, content
        if "/tree/" in path:
            tree = [{"type": "file", "path": p, "size": len(t), "oid": p} for p, t in self.files.items()]
            return 200, {}, json.dumps(tree).encode()
        return 200, {}, json.dumps({"id": "me/mine", "sha": COMMIT, "siblings": []}).encode()


@contextmanager
def running_hub(monkeypatch: pytest.MonkeyPatch) -> Generator[FakeHub]:
    """In the place of the Hub, on loopback."""
    fake = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = fake.answer(self.path.split("?")[0])
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the method it replaces
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    online(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    yield fake
    server.shutdown()
    thread.join()
    server.server_close()


def online(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
