"""The HTTP application over a real engine loop with the fake model, and the real MiniLM tokenizer."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from pathlib import Path
from typing import Any

import httpx
import pytest

from embedway.api.app import create_app
from embedway.api.context import ApiContext
from embedway.api.served_models import ServedModel
from embedway.config import Settings, load_settings
from embedway.engine.client import EngineClient
from embedway.engine.loop import Engine, EngineIdentity
from embedway.inputs.sequences import SequenceMaker
from embedway.model_spec import ModelSpec
from embedway.models.checkpoint import read_spec
from embedway.models.checkpoint_location import locate
from embedway.observability.metrics import Metrics
from fake_model import FakeModel

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
Connect = Callable[..., contextlib.AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture(scope="session")
def spec() -> ModelSpec:
    return read_spec(locate(MODEL), name=MODEL)


@contextlib.contextmanager
def engine_thread(model: FakeModel, address: str) -> Generator[None]:
    engine = Engine(EngineIdentity(model, threads=1, load_seconds=0.0), address=address, max_batch_tokens=256)
    thread = threading.Thread(target=engine.run)
    thread.start()
    try:
        yield
    finally:
        engine.stop()
        thread.join()


async def until_ready(engine: EngineClient) -> None:
    async def poll() -> None:
        while not engine.is_ready:
            await asyncio.sleep(0.005)

    await asyncio.wait_for(poll(), 30)


@pytest.fixture
def connect(spec: ModelSpec, tmp_path: Path) -> Connect:
    """`async with connect(port=…, max_items=…) as client`: a client of a server with these settings."""

    @contextlib.asynccontextmanager
    async def start(*, with_engine: bool = True, **settings: Any) -> AsyncGenerator[httpx.AsyncClient]:
        values: Settings = load_settings(settings)
        address = f"ipc://{tmp_path}/engine.sock"
        with engine_thread(FakeModel(), address) if with_engine else contextlib.nullcontext():
            async with EngineClient([address]) as engine:
                if with_engine:
                    await until_ready(engine)
                sequences = SequenceMaker.load(spec, max_request_tokens=values.max_request_tokens)
                app = create_app(ApiContext(values, ServedModel.of(spec, values), sequences, engine, Metrics()))
                transport = httpx.ASGITransport(app, raise_app_exceptions=False)
                async with httpx.AsyncClient(transport=transport, base_url="http://embedway") as client:
                    yield client

    return start


@pytest.fixture
async def client(connect: Connect) -> AsyncIterator[httpx.AsyncClient]:
    async with connect() as client:
        yield client
