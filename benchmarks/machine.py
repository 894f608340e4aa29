"""The machine and the versions: the first line of every result."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

PACKAGES = ("embedway", "torch", "transformers", "sentence-transformers", "tokenizers")
FEATURES = ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "bf16", "asimd")


def describe_machine() -> str:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    return f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}; {versions}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = fields.get("flags", fields.get("Features", "")).split()
    best = next((feature for feature in FEATURES if feature in flags), "no known vector unit")
    family = f" (family {fields['cpu family']}, model {fields['model']})" if "cpu family" in fields else ""
    return f"{fields.get('model name', platform.machine())}{family}, {best}"
