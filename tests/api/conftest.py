"""The HTTP application over a real engine loop with the fake model, and the real MiniLM tokenizer."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from embedway.api.adapter_registry import AdapterRegistry
from embedway.api.app import create_core, with_layers
from embedway.api.batch_runner import batches_running
from embedway.api.context import ApiContext
from embedway.api.context_setup import api_context
from embedway.api.served_models import ServedModel, ServedModels
from embedway.api.waits import Waits
from embedway.api_keys import ApiKeys
from embedway.config import Settings, load_settings
from embedway.engine.client import EngineClient
from embedway.engine.loop import Engine, EngineIdentity
from embedway.engine.vector_cache import VectorCache
from embedway.inputs.sequences import SequenceMaker
from embedway.model_settings import models_of
from embedway.model_spec import ModelSpec
from embedway.models.checkpoint import read_spec
from embedway.models.checkpoint_location import locate
from embedway.observability.engine_metrics import EngineMetrics
from embedway.observability.metrics import Metrics
from fake_model import FakeModel, read_fake_adapter

if TYPE_CHECKING:
    from embedway.observability.request_tracer import RequestTracer

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
Connect = Callable[..., contextlib.AbstractAsyncContextManager[httpx.AsyncClient]]
Serve = Callable[..., contextlib.AbstractAsyncContextManager[ApiContext]]


@pytest.fixture(scope="session")
def spec() -> ModelSpec:
    return read_spec(locate(MODEL), name=MODEL)


@contextlib.contextmanager
def engine_thread(
    model: FakeModel, address: str, cache_mb: int, metrics: EngineMetrics, *, shares_by_key: bool = False
) -> Generator[None]:
    engine = Engine(
        EngineIdentity(model, threads=1, load_seconds=0.0, read_adapter=read_fake_adapter),
        address=address,
        max_batch_tokens=256,
        cache=VectorCache.of_setting(cache_mb, model.dimension),
        metrics=metrics,
        shares_by_key=shares_by_key,
    )
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
def serve(spec: ModelSpec, tmp_path: Path) -> Serve:
    """`async with serve(port=…, max_items=…) as context`: what an application with these settings is made of."""

    @contextlib.asynccontextmanager
    async def start(
        *,
        with_engine: bool = True,
        model: FakeModel | None = None,
        tracer: RequestTracer | None = None,
        **settings: Any,
    ) -> AsyncGenerator[ApiContext]:
        values: Settings = load_settings(settings)
        address = f"{tmp_path}/engine.sock"
        shares_by_key = values.fair_share == "keys"
        folder = Path(tempfile.mkdtemp(prefix="metrics-", dir=tmp_path))
        engine_or_none = engine_thread(
            model or FakeModel(), address, values.cache_mb, EngineMetrics(folder), shares_by_key=shares_by_key
        )
        with engine_or_none if with_engine else contextlib.nullcontext():
            metrics = Metrics(folder)
            waits = Waits(metrics.ended)
            async with EngineClient([address], on_abort=waits.abort) as engine:
                if with_engine:
                    await until_ready(engine)
                sequences = SequenceMaker.load(spec, max_request_tokens=values.max_request_tokens)
                adapters = AdapterRegistry(tmp_path, engine)
                await adapters.adopt()
                served = ServedModel.of(
                    models_of(values)[0], sequences, engine=engine, adapters=adapters, metrics=metrics
                )
                with api_context(
                    values,
                    ApiKeys.of(values),
                    ServedModels([served]),
                    metrics=metrics,
                    waits=waits,
                    tracer=tracer,
                ) as context:
                    yield context

    return start


@pytest.fixture
def connect(serve: Serve) -> Connect:
    """`async with connect(port=…, max_items=…) as client`: a client of a server with these settings."""

    @contextlib.asynccontextmanager
    async def start(**settings: Any) -> AsyncGenerator[httpx.AsyncClient]:
        async with serve(**settings) as context:
            core = create_core(context)
            transport = httpx.ASGITransport(with_layers(core, context), raise_app_exceptions=False)
            async with (
                httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
                batches_running(context, core),
            ):
                yield client

    return start


@pytest.fixture
async def client(connect: Connect) -> AsyncIterator[httpx.AsyncClient]:
    async with connect() as client:
        yield client
