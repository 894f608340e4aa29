"""Clusters take minutes to start, and to lose nodes: `make cluster` runs these, `make test` what needs none."""

from __future__ import annotations

import os

import pytest

ON_A_CLUSTER = ("test_serve.py", "test_dataset.py", "test_serving.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not os.environ.get("CLUSTER_TESTS"):
        for item in items:
            if item.path.name in ON_A_CLUSTER and item.path.parent.name == "cluster":
                item.add_marker(pytest.mark.skip(reason="it starts a cluster: make cluster"))
