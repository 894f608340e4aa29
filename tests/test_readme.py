"""What the pages name exists: files, make targets, flags, settings. `server/test_readme_code.py` runs their code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic.fields import FieldInfo

from embedway.config import Settings, flags_of

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "docs/clients.md", "docs/configuration.md")
OTHER_FLAGS = {"--config", "--help", "--version"}
"""Those of `embedway` that are no settings."""
A_FILE = re.compile(r"(\.\w+/\w+|\w[\w./-]*(\.(py|md|toml|txt|sh|ya?ml)|/))")
A_FLAG = re.compile(r"(?<![\w-])--[a-z]+(?:-[a-z]+)*")


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def code_spans(page: str) -> list[str]:
    """The inline code of a page, and its fenced code line by line."""
    fences = re.findall(r"^```\w*\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    return [*re.findall(r"`([^`\n]+)`", prose), *(line for fence in fences for line in fence.splitlines())]


def files_of(page: str) -> list[str]:
    links = re.findall(r"\]\(([^)#:]+)\)", text_of(page))
    return links + [span for span in code_spans(page) if A_FILE.fullmatch(span)]


def without_sglang_s_column(page: str) -> str:
    """A page without the first cells of its table of SGLang's flags."""
    head, title, rest = text_of(page).partition("| SGLang | Embedway |")
    return head + title + re.sub(r"^\|[^|]*\|", "|", rest, flags=re.MULTILINE)


def all_flags() -> set[str]:
    settings = {flag for name, field in Settings.model_fields.items() for flag in flags_of(name, field)}
    switches = {name for name, field in Settings.model_fields.items() if field.annotation is bool}
    return settings | {f"--no-{name.replace('_', '-')}" for name in switches} | OTHER_FLAGS


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_exists(page: str) -> None:
    package = ROOT / "src" / "embedway"
    files = [name.rstrip("/") for name in files_of(page)]
    missing = [name for name in files if not (ROOT / name).exists() and not any(package.rglob(name))]
    assert missing == []


def test_files_are_found_on_the_pages() -> None:
    assert {"ARCHITECTURE.md", "examples/", "SECURITY.md"} <= set(files_of("README.md"))
    assert {".ci/run", "models/pooling.py", "tests/fake_model.py"} <= set(files_of("CONTRIBUTING.md"))
    assert {"api/", "config.py"} <= set(files_of("ARCHITECTURE.md"))


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))
    code = [span for page in PAGES for span in code_spans(page)] + text_of(".ci/run").splitlines()
    named = {target for span in code for target in re.findall(r"^make ([a-z-]+)", span)}
    assert {"serve", "test", "lint", "bench", "install"} <= named <= targets


def test_make_without_a_target_lists_every_target() -> None:
    described = set(re.findall(r"^([a-z-]+):.*## ", text_of("Makefile"), re.MULTILINE))
    assert described == set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md"])
def test_every_flag_that_a_page_names_exists(page: str) -> None:
    named = set(A_FLAG.findall(without_sglang_s_column(page)))
    assert named <= all_flags()


@pytest.mark.parametrize(("name", "field"), Settings.model_fields.items(), ids=Settings.model_fields)
def test_every_setting_has_its_row_with_all_names_and_its_default(name: str, field: FieldInfo) -> None:
    rows = [line.split("|") for line in text_of("docs/configuration.md").splitlines() if line.startswith("| `--")]
    [row] = [row for row in rows if f"`{flags_of(name, field)[0]}`" in row[1]]
    assert A_FLAG.findall(row[1]) == flags_of(name, field)
    default = field.get_default(call_default_factory=True)
    if default not in (None, []):
        assert row[2].strip() == f"`{str(default).lower() if isinstance(default, bool) else default}`"
