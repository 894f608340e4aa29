from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from embedway.engine.client import EngineClient
from embedway.models.interface import EmbeddingModel
from running_engine import RunningEngine, StartEngine


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"{tmp_path}/engine.sock"


@pytest.fixture
def start_engine() -> Iterator[StartEngine]:
    running: list[RunningEngine] = []

    def start(model: EmbeddingModel, address: str, **options: Any) -> RunningEngine:
        running.append(RunningEngine(model, address, **options))
        return running[-1]

    yield start
    for engine in running:
        engine.stop()


@pytest.fixture
async def client(address: str) -> AsyncIterator[EngineClient]:
    async with EngineClient([address]) as client:
        yield client
