"""Pages in a real headless Chromium, which is Debian's (`apt install chromium`); tests are skipped where there is none.

A page is watched: no request may leave its server, and its console must stay empty.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
LOCAL_SCHEMES = ("data:", "blob:")
PATIENCE_MS = 60_000
"""For a busy machine; what is there is waited for no longer."""


@contextmanager
def chromium() -> Generator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("no chromium is installed (on Debian: apt install chromium)")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield browser
        browser.close()


@contextmanager
def watched_page(browser: Browser, url: str, *, expects: str | None = None, **options: Any) -> Generator[Page]:
    """A page of a context of its own, at `url`. `expects` is a pattern of what its console may say all the same."""
    settings: dict[str, Any] = {"viewport": {"width": 1280, "height": 900}, **options}
    with browser.new_context(**settings) as context:
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        elsewhere: list[str] = []
        said: list[str] = []
        page.on("request", lambda request: None if is_of(request.url, url) else elsewhere.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(url)
        yield page
        assert elsewhere == []
        assert [text for text in said if expects is None or not re.search(expects, text)] == []


def is_of(address: str, url: str) -> bool:
    return address.startswith((f"{url}/", *LOCAL_SCHEMES))
