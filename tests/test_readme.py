"""What the pages name exists: files, make targets, flags, settings. `server/test_readme_code.py` runs their code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from pydantic.fields import FieldInfo

from embedway.api.schemas import EmbeddingRequest
from embedway.cli import app
from embedway.config import Settings, flags_of

ROOT = Path(__file__).parents[1]
ROOT_PAGES = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md")
PAGES = (*ROOT_PAGES, *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md")))
OTHER_FLAGS = {"--config", "--help", "--version", "--show-completion", "--install-completion"}
"""Those of `embedway` that are no settings, beside those of its other commands."""
A_FILE = re.compile(r"(\.\w+/\w+|\w[\w./-]*(\.(py|md|toml|txt|sh|ya?ml)|/))")
COMMAND = re.compile(r"\bembedway [a-z]+|make serve|embedway:cpu")
A_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9]*(?:-[a-z]+)*")


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


def tables_of(text: str) -> list[list[list[str]]]:
    """Tables as rows of cells, the titles first, without the line below them."""
    tables = re.findall(r"(?:^\|.*\n)+", text + "\n", re.MULTILINE)
    rows = [[line.strip("|").split("|") for line in table.splitlines()] for table in tables]
    return [[[cell.strip() for cell in row] for row in [table[0], *table[2:]]] for table in rows]


def own_code(page: str) -> list[str]:
    """Pieces of code that are about this server: not what tables say of another one, which is in their first column."""
    text = text_of(page)
    for table in tables_of(text):
        if table[0][1:] == ["Embedway"]:
            for row in table[1:]:
                text = text.replace(f"| {row[0]} |", "| |", 1)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    fences = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [*spans, *(line for fence in fences for line in fence.splitlines())]


def own_flags(page: str) -> set[str]:
    """Flags that stand alone, or behind the command: other programs have some, too."""
    parts = [code if code.startswith("-") else "".join(COMMAND.split(code)[1:]) for code in own_code(page)]
    return {flag for part in parts for flag in A_FLAG.findall(part)}


def all_flags() -> set[str]:
    settings = {flag for name, field in Settings.model_fields.items() for flag in flags_of(name, field)}
    switches = {name for name, field in Settings.model_fields.items() if field.annotation is bool}
    return settings | {f"--no-{name.replace('_', '-')}" for name in switches} | OTHER_FLAGS | flags_of_commands()


def flags_of_commands() -> set[str]:
    group: Any = typer.main.get_command(app)
    return {flag for command in group.commands.values() for parameter in command.params for flag in parameter.opts}


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_exists(page: str) -> None:
    package = ROOT / "src" / "embedway"
    files = [name.rstrip("/") for name in files_of(page)]
    missing = [
        name
        for name in files
        if not any((folder / name).exists() for folder in (ROOT, (ROOT / page).parent)) and not any(package.rglob(name))
    ]
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
    assert own_flags(page) <= all_flags()


def test_flags_are_found_on_the_pages() -> None:
    assert {"--api-key", "--lora-root", "--dtype"} <= own_flags("README.md")
    assert {"--truncate", "--replicas"} <= own_flags("docs/migrating/sglang.md")
    assert not {"--dp-size", "--allow-auto-truncate"} & own_flags("docs/migrating/sglang.md")


@pytest.mark.parametrize("page", [page for page in PAGES if "migrating" in page])
def test_every_field_that_a_page_leads_to_exists(page: str) -> None:
    [table] = [table for table in tables_of(text_of(page)) if table[0][0].endswith(" field")]
    named = {span for row in table[1:] for span in re.findall(r"`([a-z_]+)`", row[1])}
    values = {value for field in EmbeddingRequest.model_fields.values() for value in literals_of(field.annotation)}
    assert named
    assert named <= {*EmbeddingRequest.model_fields, *values, "text", "image", "video"}


def literals_of(annotation: Any) -> set[str]:
    return {
        value for choice in get_args(annotation) for value in (literals_of(choice) or {choice}) if value is not None
    }


@pytest.mark.parametrize(("name", "field"), Settings.model_fields.items(), ids=Settings.model_fields)
def test_every_setting_has_its_row_with_all_names_and_its_default(name: str, field: FieldInfo) -> None:
    rows = [line.split("|") for line in text_of("docs/configuration.md").splitlines() if line.startswith("| `--")]
    [row] = [row for row in rows if f"`{flags_of(name, field)[0]}`" in row[1]]
    assert A_FLAG.findall(row[1]) == flags_of(name, field)
    default = field.get_default(call_default_factory=True)
    if default not in (None, []):
        assert row[2].strip() == f"`{str(default).lower() if isinstance(default, bool) else default}`"
