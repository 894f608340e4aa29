"""An API process takes over what the supervisor's file says: real engine loops, the fake model."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from pathlib import Path

import pytest

from embedway.api.adapter_registry import AdapterRegistry
from embedway.api.model_host import ModelHost
from embedway.api.served_models import ServedModel, adapter_in
from embedway.config import load_settings
from embedway.engine.client import EngineClient
from embedway.errors import EngineLost, EngineNotReady, ModelNotFound, ModelUnavailable, StartupError
from embedway.inputs.sequences import SequenceMaker
from embedway.model_spec import ModelSpec
from embedway.observability.metrics import Metrics
from embedway.supervisor_words import ModelConfig, write_models
from running_engine import GatedModel, RunningEngine, packed, until


def config(folder: Path, spec: ModelSpec, name: str, number: int, failure: str | None = None) -> ModelConfig:
    settings = load_settings({"model_path": name})
    return ModelConfig(
        number=number,
        settings=settings.for_api_process(),
        spec=spec,
        engine_addresses=[f"{folder}/{name}.sock"],
        first_engine=number,
        adapters_folder=str(folder),
        failure=failure,
    )


class Models:
    """The file, and a host that opens what it says, with one tokenizer for all."""

    def __init__(self, folder: Path, spec: ModelSpec) -> None:
        self.folder, self.spec = folder, spec
        self.file = folder / "models.json"
        self._sequences = SequenceMaker.load(spec, max_request_tokens=1000)

    def write(self, names: Iterable[str], **failures: str) -> None:
        """`names` in the order of their numbers, an empty one for a model that has gone."""
        configs = [config(self.folder, self.spec, name, i, failures.get(name)) for i, name in enumerate(names) if name]
        write_models(self.file, configs)

    @contextlib.asynccontextmanager
    async def open(self, config: ModelConfig) -> AsyncGenerator[ServedModel]:
        if config.settings["model_path"] == "broken":
            raise StartupError(message="the test says so")
        async with EngineClient(config.engine_addresses) as engine:
            yield ServedModel.of(
                load_settings({"model_path": config.settings["model_path"]}),
                self._sequences,
                engine=engine,
                adapters=AdapterRegistry(self.folder, engine),
                metrics=Metrics(),
                number=config.number,
                first_engine=config.first_engine,
            )


@pytest.fixture
def models(spec: ModelSpec, tmp_path: Path) -> Models:
    return Models(tmp_path, spec)


@pytest.fixture
async def gated(models: Models) -> AsyncIterator[GatedModel]:
    """The model of the engine called `late`; `first` has one, too."""
    model = GatedModel()
    engines = [
        RunningEngine(GatedModel(), f"{models.folder}/first.sock"),
        RunningEngine(model, f"{models.folder}/late.sock"),
    ]
    yield model
    for engine in engines:
        await asyncio.to_thread(engine.stop)


def names(host: ModelHost) -> list[str]:
    return [model.name for model in host.models]


async def test_requests_of_a_model_that_is_unloaded_finish_and_new_ones_do_not_find_it(
    models: Models, gated: GatedModel
) -> None:
    models.write(["first"])
    async with ModelHost(models.file, models.open) as host:
        models.write(["first", "late"])
        await host.adopt(patience=30)
        model, _ = host.models.find("late")
        assert model.status == "ready"
        with model.admission.admit(1):
            answer = asyncio.ensure_future(model.engine.embed(packed([1, 2])))
            await until(gated.has_begun.is_set)
            models.write(["first"])
            adopting = asyncio.create_task(host.adopt(patience=30))
            await until(lambda: names(host) == ["first"])
            with pytest.raises(ModelNotFound):
                host.models.find("late")
            assert not adopting.done()
            gated.gate.set()
            await asyncio.wait_for(answer, 30)
            assert not adopting.done()  # until its answer has been sent
        await asyncio.wait_for(adopting, 30)


async def test_a_request_that_outlasts_the_patience_ends_in_an_error(models: Models, gated: GatedModel) -> None:
    models.write(["first", "late"])
    async with ModelHost(models.file, models.open) as host:
        await host.adopt(patience=0)
        model, _ = host.models.find("late")
        with model.admission.admit(1):
            answer = asyncio.ensure_future(model.engine.embed(packed([1, 2])))
            await until(gated.has_begun.is_set)
            models.write(["first"])
            await asyncio.wait_for(host.adopt(patience=0.05), 30)
            with pytest.raises(EngineLost):
                await asyncio.wait_for(answer, 30)
            with pytest.raises(EngineNotReady):
                await model.engine.embed(packed([1]))


async def test_a_model_that_failed_is_not_waited_for_and_may_come_back(models: Models) -> None:
    """Its engine is not there: who waits for it, a request or the adoption, waits no longer."""
    models.write(["first"])
    async with ModelHost(models.file, models.open) as host:
        adopting = asyncio.create_task(host.adopt(patience=0))
        await asyncio.sleep(0)
        models.write(["first"], first="its engine died")
        await asyncio.wait_for(host.adopt(patience=0), 30)
        await asyncio.wait_for(adopting, 30)
        [model] = host.models
        assert model.status == "unavailable"
        with pytest.raises(ModelUnavailable, match="'first' is unavailable: its engine died"):
            model.check_available()
        models.write(["first"])
        await asyncio.wait_for(host.adopt(patience=0), 30)
        model.check_available()
        assert model.status == "not ready"


async def test_a_model_that_cannot_be_opened_is_told_and_the_others_are_served(
    models: Models, gated: GatedModel
) -> None:
    del gated
    models.write(["first"])
    async with ModelHost(models.file, models.open) as host:
        models.write(["first", "broken"])
        with pytest.raises(StartupError, match="the test says so"):
            await host.adopt(patience=0)
        assert names(host) == ["first"]
        models.write(["first", "", "late"])
        await host.adopt(patience=0)
        assert names(host) == ["first", "late"]
        models.write(["", "", "late"])
        await host.adopt(patience=0)
        assert host.models.named(None).name == "late"


@pytest.mark.parametrize(
    ("name", "adapter"),
    [("a", None), ("a:x", "x"), ("a:b", None), ("a:b:x", "x"), ("a:", None), ("other:x", None), ("a:c:d", "c:d")],
)
def test_the_longest_served_name_is_taken_whole(name: str, adapter: str | None) -> None:
    assert adapter_in(name, ["a", "a:b"]) == adapter
