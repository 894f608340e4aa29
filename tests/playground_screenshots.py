"""Pictures of the playground for the README and docs/playground.md: python tests/playground_screenshots.py

It starts a server of its own, and writes docs/images/playground-VIEW-THEME.png with this machine's fonts.
"""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect

from chromium import chromium, watched_page
from running_server import RunningServer

FOLDER = Path(__file__).parents[1] / "docs" / "images"
WIDTH = 1240
MARGIN = 16
WARM_UPS = 20
"""Calls before the one whose time is shown: the page's and the server's code is compiled then, as it is in use."""


def show_compare(page: Page) -> None:
    embed(page)
    page.locator(".heat tbody tr").nth(4).locator("td").nth(5).hover()


def show_map(page: Page) -> None:
    embed(page)
    page.locator("[role=listitem]").nth(4).hover()


def show_search(page: Page) -> None:
    for _ in range(WARM_UPS):
        with page.expect_response("**/v1/embeddings"):
            page.locator("#search").click()
        expect(page.locator("#results")).to_have_attribute("aria-busy", "false")
    page.locator("#query").focus()


VIEWS = {"compare": show_compare, "map": show_map, "search": show_search}


def embed(page: Page) -> None:
    for _ in range(WARM_UPS):
        with page.expect_response("**/v1/embeddings"):
            page.locator("#embed").click()
        expect(page.locator("#results")).to_have_attribute("aria-busy", "false")


def take(browser: Browser, url: str, theme: str) -> None:
    with watched_page(
        browser, url, color_scheme=theme, viewport={"width": WIDTH, "height": 900}, device_scale_factor=1.25
    ) as page:
        expect(page.locator("#embed")).to_be_enabled()
        for view, show in VIEWS.items():
            page.locator(f"#tab-{view}").click()
            show(page)
            columns = page.locator(".columns").bounding_box()
            assert columns is not None
            height = columns["y"] + columns["height"] + MARGIN
            picture = page.screenshot(clip={"x": 0, "y": 0, "width": WIDTH, "height": height})
            save(picture, FOLDER / f"playground-{view}-{theme}.png")


def save(picture: bytes, path: Path) -> None:
    """Without transparency, as small as PNG gets."""
    Image.open(io.BytesIO(picture)).convert("RGB").save(path, optimize=True)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with RunningServer() as server, chromium() as browser:
        for theme in ("light", "dark"):
            take(browser, server.url, theme)


if __name__ == "__main__":
    main()
