"""Every package that development and CI install has one version: nothing comes in that nobody has looked at."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
EXTRAS = ("minilm", "torch", "media", "otel", "dev")
"""Those that `make install` asks for"""


def project_requirements() -> list[str]:
    if sys.version_info < (3, 11):
        import tomli as tomllib  # ty: ignore[import-not-found] - not there where Python has it
    else:
        import tomllib
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return project["dependencies"] + [requirement for extra in EXTRAS for requirement in extras[extra]]


def pins() -> dict[str, Version]:
    lines = [
        line.partition("#")[0].partition(";")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()
    ]
    pairs = [line.split("==") for line in lines if line]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def installed_closure(requirements: list[str]) -> dict[str, Version]:
    """All packages that these need here, directly or not."""
    closure: dict[str, Version] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(requirement, "") for requirement in requirements]
    while waiting:
        text, extra = waiting.pop()
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        if name == "embedway" or (requirement.marker and not requirement.marker.evaluate({"extra": extra})):
            continue
        closure[name] = Version(importlib.metadata.version(name))
        for wanted in ("", *requirement.extras):
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                waiting += [(needed, wanted) for needed in importlib.metadata.requires(name) or []]
    return closure


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the pins are those of Python 3.11 and newer")
def test_every_package_that_is_installed_for_us_is_pinned_at_its_version() -> None:
    pinned = pins()
    closure = installed_closure(project_requirements())
    assert len(closure) > 100
    assert [name for name in closure if name not in pinned] == []
    # a CPU wheel of torch is 2.13.0+cpu
    assert {name: version for name, version in closure.items() if version.public != pinned[name].public} == {}


def test_every_pin_is_one_exact_version() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pattern = re.compile(r'[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*(; python_version >= "3\.11")?')
    assert [line for line in lines if not pattern.fullmatch(line)] == []
