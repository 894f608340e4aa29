"""The documentation's site: it can be built, every page is in its menu, and every link leads somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built strictly: a link to nothing, or a page that no menu names, is an error.

    Not with --quiet, which keeps warnings from being counted.
    """
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder


def test_the_pages_of_the_repository_are_pages_of_the_site(site: Path) -> None:
    for page in ("index", "security", "architecture", "migrating/sglang"):
        assert (site / f"{page}.html").is_file()


def test_files_named_in_code_are_links(site: Path) -> None:
    page = (site / "operations.html").read_text(encoding="utf-8")
    assert '<a href="security.html"><code>SECURITY.md</code></a>' in page
    assert 'blob/main/deploy/Dockerfile"' in page


def test_no_list_and_no_table_is_left_as_text(site: Path) -> None:
    pages = {page.name: page.read_text(encoding="utf-8") for page in site.rglob("*.html")}
    assert "<table>" in pages["operations.html"]
    left = re.compile(r"<p>\||<p>- |<p>[^<]*\n- |<p>```")
    assert [name for name, text in pages.items() if left.search(text)] == []


def test_no_page_asks_another_server(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert "fonts.googleapis.com" not in text
        assert '<script src="http' not in text
