"""The machine and the versions: the head of every result."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

import msgspec

PACKAGES = ("embedway", "torch", "transformers", "sentence-transformers", "tokenizers")
FEATURES = ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "bf16", "asimd")


class Machine(msgspec.Struct, frozen=True):
    """Where a result was made."""

    processor: str
    vector_unit: str
    """The best of FEATURES"""
    cores: int
    python: str
    packages: dict[str, str]
    """Versions in the Python that runs the benchmark"""

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {version}" for name, version in self.packages.items())
        return f"{self.processor}, {self.vector_unit}, {self.cores} cores, Python {self.python}; {versions}"


def read_machine() -> Machine:
    processor, features = _processor()
    return Machine(
        processor=processor,
        vector_unit=next((feature for feature in FEATURES if feature in features), "no known vector unit"),
        cores=os.cpu_count() or 1,
        python=platform.python_version(),
        packages={name: importlib.metadata.version(name) for name in PACKAGES},
    )


def _processor() -> tuple[str, list[str]]:
    """Its name and features, from Linux's /proc/cpuinfo where there is one."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine(), []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    family = f" (family {fields['cpu family']}, model {fields['model']})" if "cpu family" in fields else ""
    return fields.get("model name", platform.machine()) + family, fields.get(
        "flags", fields.get("Features", "")
    ).split()
