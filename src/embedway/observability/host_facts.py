"""What this is: build, Python, libraries and CPU, as a report of a fault has to say it."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import platform
import re
from pathlib import Path
from typing import Any

from embedway.models.cpu_threads import available_cores

LIBRARIES = ("numpy", "tokenizers", "safetensors", "fastapi", "uvicorn", "uvloop", "transformers", "torch")
CPU_INFO = Path("/proc/cpuinfo")
CPU_FEATURES = re.compile(r"\b(avx2|fma|f16c|avx512(?:f|bw|vl|_bf16|_fp16|_vnni)|amx_\w+|asimd\w*|i8mm|bf16|sve2?)\b")
"""What the kernels, ours and others', choose by"""


@functools.cache
def host_facts() -> dict[str, Any]:
    """JSON values, the same for as long as the process lives."""
    return {
        "build": _build(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "cpu": _cpu(),
        "versions": {name: _installed_version(name) for name in LIBRARIES},
    }


def _build() -> dict[str, Any]:
    """How the package was installed: its wheel's tag, and the commit where pip knows one."""
    try:
        distribution = importlib.metadata.distribution("embedway")
    except importlib.metadata.PackageNotFoundError:
        return {"wheel": None, "editable": None, "commit": None}
    tags = re.findall(r"^Tag: (.*)$", distribution.read_text("WHEEL") or "", re.MULTILINE)
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    return {
        "wheel": tags[0] if tags else None,
        "editable": origin.get("dir_info", {}).get("editable", False),
        "commit": origin.get("vcs_info", {}).get("commit_id"),
    }


def _cpu() -> dict[str, Any]:
    info = CPU_INFO.read_text(errors="replace") if CPU_INFO.exists() else ""
    name = re.search(r"^model name\s*: (.*)$", info, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*: (.*)$", info, re.MULTILINE)
    return {
        "name": name[1] if name else platform.processor() or platform.machine(),
        "cores": available_cores(),
        "features": sorted(set(CPU_FEATURES.findall(flags[1]))) if flags else [],
    }


def _installed_version(package: str) -> str | None:
    """None where it is not installed: torch and transformers are an extra."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
