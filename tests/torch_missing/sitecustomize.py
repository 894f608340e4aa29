"""Python imports this by itself where its folder is on PYTHONPATH: as if `embedway[torch]` were not installed."""

from __future__ import annotations

import importlib.metadata
import sys
from importlib.abc import MetaPathFinder
from importlib.metadata import Distribution, PackageNotFoundError

MISSING = ("torch", "transformers", "sentence_transformers")


class Missing(MetaPathFinder):
    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def version(distribution_name: str) -> str:
    if distribution_name in MISSING:
        raise PackageNotFoundError(distribution_name)
    return Distribution.from_name(distribution_name).version


sys.meta_path.insert(0, Missing())
setattr(importlib.metadata, "version", version)  # noqa: B010 - a checker sees that it is another function
