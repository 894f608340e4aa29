"""Python imports this by itself where its folder is on PYTHONPATH: as if `embedway[torch]` were not installed."""

from __future__ import annotations

import importlib.metadata
import sys
from importlib.abc import MetaPathFinder
from importlib.metadata import Distribution, PackageNotFoundError

MISSING = ("torch", "transformers", "sentence_transformers")
find_distribution = Distribution.from_name


class Missing(MetaPathFinder):
    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def distribution(distribution_name: str) -> Distribution:
    if distribution_name in MISSING:
        raise PackageNotFoundError(distribution_name)
    return find_distribution(distribution_name)


sys.meta_path.insert(0, Missing())
importlib.metadata.distribution = distribution
