"""MkDocs' hooks: the repository's own pages become pages of the site, files named in code become links, and Markdown
as GitHub reads it is written as Python's Markdown does.

Pages name files as `docs/load.md`, which any editor and search understand; a reader of the site wants to click.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent
ROOT_PAGES = {
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
"""File of the repository → page of the site"""
SOURCES = "https://github.com/embedway/embedway/blob/main/"
CODE_BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LIST_OR_TABLE = re.compile(r"\||- |\d+\. ")
NAMED_FILE = re.compile(r"(?<!\[)`(?!/)([\w./-]+)`(?!\])")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, page in ROOT_PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: object) -> str:
    here = posixpath.dirname(page.file.src_uri)
    parts = re.split(f"({CODE_BLOCK.pattern})", with_blank_lines(markdown), flags=CODE_BLOCK.flags)
    return "".join(part if part.startswith("```") else linked(part, here) for part in parts)


def with_blank_lines(markdown: str) -> str:
    """On GitHub lists and tables may follow a paragraph or code at once; Python's Markdown wants a blank line."""
    lines: list[str] = []
    in_code, before = False, ""
    for line in markdown.splitlines():
        begins = LIST_OR_TABLE.match(line) and not LIST_OR_TABLE.match(before) and not before.startswith(" ")
        if begins and before and not in_code:
            lines.append("")
        in_code ^= line.startswith("```")
        lines.append(line)
        before = line
    return "\n".join([*lines, ""])


def linked(text: str, here: str) -> str:
    """Names of files outside of code blocks, as links: to their page where they are one, else to the sources."""

    def link(match: re.Match[str]) -> str:
        name = match[1]
        target = page_of(name)
        if target is not None:
            return f"[`{name}`]({posixpath.relpath(target, here or '.')})"
        for folder in ("", "src/embedway/"):
            if (ROOT / folder / name).is_file():
                return f"[`{name}`]({SOURCES}{folder}{name})"
        return match[0]

    return NAMED_FILE.sub(link, text)


def page_of(name: str) -> str | None:
    if name in ROOT_PAGES:
        return ROOT_PAGES[name]
    page = name.removeprefix("docs/")
    return page if page != name and (ROOT / name).is_file() else None
