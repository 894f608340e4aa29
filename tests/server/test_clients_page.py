"""The code of docs/clients.md does what its comments say, with each client as it comes, against a running server.

Clients that need much live in environments of their own (`make clients`), without which their code is skipped.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest

from running_server import RunningServer

ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / "tests" / "clients"
VENV = ROOT / ".venv-clients"
PAGE = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
URL = "http://127.0.0.1:30000"
ALIAS = "text-embedding-3-small"
MODEL = "sentence-transformers/all-MiniLM-L6-v2"
TEXTS = ["a cat", "a feline"]
"""Those whose vectors the code calls `vectors`, where it shows them"""
TRAILERS = {
    "python": "\nimport json\nprint(json.dumps([[float(x) for x in vector] for vector in vectors]))",
    "js": "\nconsole.log(JSON.stringify(vectors))",
}
PRINTS = {"python": r"^ *print\(.*\)  # (.+)$", "js": r"^ *console\.log\(.*\); // (.+)$"}
QUIET = {
    "ANONYMIZED_TELEMETRY": "false",  # Chroma
    "DO_NOT_TRACK": "1",
    "HAYSTACK_TELEMETRY_ENABLED": "false",
    "HF_HUB_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "true",  # or it asks for a list of prices as it is imported
}
"""None of them may call anybody but the server."""


@dataclass(frozen=True)
class Snippet:
    """One piece of the page's code, and the packages that its row of the page's table names."""

    language: str
    code: str
    packages: dict[str, str]


def rows() -> dict[str, dict[str, str]]:
    """For each client of the table that was run: the packages' versions."""
    found = re.findall(r"^\| \[([^\]]+)\]\(#[^)]+\) \| ([^|]+) \|", PAGE, re.MULTILINE)
    return {client: dict(re.findall(r"`(\S+) ([0-9][^`]*)`", packages)) for client, packages in found}


def snippets() -> dict[str, Snippet]:
    found = {}
    block = re.compile(r"^```(python|js)\n(.*?)^```", re.MULTILINE | re.DOTALL)
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]:
        client = section.partition("\n")[0]
        for i, (language, code) in enumerate(block.findall(section)):
            found[f"{client}-{i}"] = Snippet(language, code, rows()[client])
    return found


def pins(file: Path) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==([\w.]+)", file.read_text(encoding="utf-8"), re.MULTILINE))


SNIPPETS = snippets()
OWN_ENVIRONMENT = pins(CLIENTS / "requirements.txt").keys() - {"openai"}
"""Clients that are not in the development's; OpenAI's is in both, since others import it."""


def installed(folders: list[str]) -> dict[str, str]:
    """The distributions of an environment's folders, and their versions."""
    found = importlib.metadata.distributions(path=folders)
    return {distribution.name.lower().replace("_", "-"): distribution.version for distribution in found}


def installed_for_node() -> dict[str, str]:
    lock = CLIENTS / "node" / "node_modules" / ".package-lock.json"
    if shutil.which("node") is None or not lock.is_file():
        return {}
    packages = json.loads(lock.read_text(encoding="utf-8"))["packages"]
    return {path.removeprefix("node_modules/"): package["version"] for path, package in packages.items()}


def command(snippet: Snippet) -> list[str]:
    """What runs code that comes on stdin, in the environment that has the packages; or the test is skipped."""
    if snippet.language == "js":
        there, program = installed_for_node(), ["node", "--input-type=module", "-"]
    elif not snippet.packages.keys() & OWN_ENVIRONMENT:
        return [sys.executable, "-"]
    else:
        there = installed([str(folder) for folder in VENV.glob("lib/python*/site-packages")])
        program = [str(VENV / "bin" / "python"), "-"]
    if missing := [f"{name} {version}" for name, version in snippet.packages.items() if there.get(name) != version]:
        pytest.skip(f"not installed here (make clients): {', '.join(missing)}")
    return program


@pytest.fixture(scope="module")
def expected(minilm_server: RunningServer) -> np.ndarray:
    answer = httpx.post(f"{minilm_server.url}/v1/embeddings", json={"model": MODEL, "input": TEXTS}).json()
    return np.array([item["embedding"] for item in answer["data"]])


@pytest.fixture(scope="module")
def aliased_server() -> Iterator[RunningServer]:
    """For clients that know OpenAI's names only."""
    with RunningServer("--alias", ALIAS) as server:
        yield server


@pytest.mark.parametrize("snippet", SNIPPETS.values(), ids=SNIPPETS)
def test_its_code_prints_what_its_comments_say(
    request: pytest.FixtureRequest, expected: np.ndarray, tmp_path: Path, snippet: Snippet
) -> None:
    run = command(snippet)
    server = request.getfixturevalue("aliased_server" if ALIAS in snippet.code else "minilm_server")
    shows_vectors = re.search(r"\bvectors\b.* = ", snippet.code) is not None
    code = snippet.code.replace(URL, server.url) + (TRAILERS[snippet.language] if shows_vectors else "")
    ended = subprocess.run(
        run,
        input=code,
        cwd=CLIENTS / "node" if snippet.language == "js" else tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | QUIET,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    said = re.findall(PRINTS[snippet.language], snippet.code, re.MULTILINE)
    assert said or shows_vectors
    printed = ended.stdout.splitlines()[-len(said) - shows_vectors :]
    if shows_vectors:
        np.testing.assert_allclose(json.loads(printed.pop()), expected, atol=2e-6)
    assert printed == said


def test_its_table_has_a_row_for_each_client_that_is_run() -> None:
    assert {name.rpartition("-")[0] for name in SNIPPETS} | {"curl"} == set(rows())


@pytest.mark.parametrize("snippet", SNIPPETS.values(), ids=SNIPPETS)
def test_its_table_has_the_pinned_versions(snippet: Snippet) -> None:
    if snippet.language == "js":
        installs = json.loads((CLIENTS / "node" / "package.json").read_text(encoding="utf-8"))["dependencies"]
    else:
        installs = pins(CLIENTS / "requirements.txt") | pins(ROOT / "constraints.txt")
    assert snippet.packages
    assert snippet.packages == {package: installs.get(package) for package in snippet.packages}
