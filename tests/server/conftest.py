from __future__ import annotations

from collections.abc import Iterator

import pytest

from running_server import RunningServer


@pytest.fixture(scope="session")
def minilm_server() -> Iterator[RunningServer]:
    """all-MiniLM-L6-v2 as a user starts it, from the data package, offline."""
    with RunningServer() as server:
        yield server
