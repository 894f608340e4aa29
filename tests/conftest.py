from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The test workers share the cores: a second thread each would only wait for the other's.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["EMBEDWAY_THREADS"] = "1"
os.environ["EMBEDWAY_DRAIN_DELAY"] = "0"  # no load balancer is to be waited for at the end of each server
os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub: no test goes to the network

# A busy machine must not fail a test: no deadlines.
settings.register_profile("embedway", deadline=None)
settings.load_profile("embedway")

# Child processes find the stand-ins, too: `python -m fake_engine`.
TESTS = str(Path(__file__).parent)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [TESTS, os.environ.get("PYTHONPATH", "")]))

SLOWEST_FIRST = ("kernels", "faults", "server", "benchmarks", "models", "comparison", "commands")
"""Rooms of which a single test may take long: begun last, one would keep one worker busy alone at the end"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        room = item.path.relative_to(TESTS).parts[0]
        return SLOWEST_FIRST.index(room) if room in SLOWEST_FIRST else len(SLOWEST_FIRST)

    items.sort(key=place)
