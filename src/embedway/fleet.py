"""The models of a server: their engines, what the API processes are told of them, and what operators change.

Belongs to the supervisor's event loop. The file that `publish` writes is all that the API processes know of models;
each says once it serves what the file says, and only then an order to load or unload has been carried out.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from embedway.child_process import ChildFailed, ChildProcess
from embedway.config import Settings
from embedway.engine.memory_room import free_bytes
from embedway.engine.slot import Slot
from embedway.engine.supervisor import Supervisor
from embedway.errors import (
    EmbedwayError,
    InternalFault,
    InvalidSetting,
    ModelConflict,
    ModelRefused,
    RestartInProgress,
    ShuttingDown,
    StartupError,
)
from embedway.model_reader import declared_elsewhere
from embedway.model_settings import names_of, settings_of
from embedway.model_spec import ModelSpec
from embedway.processes import engine_address, engine_slots, models_file
from embedway.supervisor_words import (
    LoadModel,
    ModelConfig,
    ModelsAdopted,
    ModelsChanged,
    Order,
    OrderEnd,
    RestartEngines,
    UnloadModel,
    read_up,
    word_of,
    write_models,
)

logger = logging.getLogger("embedway.supervisor")

ADOPTION_SECONDS = 60.0
"""In which each API process has read a tokenizer, or is no reason to wait any longer"""
POLL_SECONDS = 0.01


@dataclass(slots=True, eq=False)
class HostedModel:
    settings: Settings
    config: ModelConfig
    folder: Path
    slots: list[Slot]
    is_changing: bool = False
    """An order for it is being carried out"""

    @property
    def name(self) -> str:
        return names_of(self.settings)[0]


@dataclass(slots=True, eq=False)
class Fleet:
    """Before `supervisor` is set, once, `host` and `serve_by` say what it is to start."""

    settings: Settings
    runtime: Path
    """The server's private folder"""
    on_new_slots: Callable[[list[Slot]], object] = lambda _: None
    make_engines: Callable[[Settings, ModelSpec, Path, Path, int], list[Slot]] = engine_slots
    models: list[HostedModel] = field(default_factory=list)
    api_slots: list[Slot] = field(default_factory=list)
    supervisor: Supervisor = field(init=False)
    _num_models: int = 0
    """That there ever were"""
    _engine_numbers: set[int] = field(default_factory=set)
    """Of the engines that there are"""
    _loading: list[Settings] = field(default_factory=list)
    _version: int = 0
    _adopted: dict[int, ModelsAdopted] = field(default_factory=dict)
    """By process id, of each API process that was ready: the newest"""

    def new_folder(self) -> Path:
        """A further model's own."""
        folder = self.runtime / f"model-{self._num_models}"
        self._num_models += 1
        (folder / "adapters").mkdir(parents=True)
        return folder

    def host(self, settings: Settings, spec: ModelSpec, folder: Path) -> HostedModel:
        """A model that is to be served: its engines are not started, and `models` is the caller's to change."""
        first = self._free_numbers(settings.replicas)
        slots = self.make_engines(settings, spec, folder, self.runtime, first)
        config = ModelConfig(
            number=int(folder.name.rpartition("-")[2]),
            settings=settings.for_api_process(),
            spec=spec,
            engine_addresses=[engine_address(folder, i) for i in range(settings.replicas)],
            first_engine=first,
            adapters_folder=str(folder / "adapters"),
        )
        self._engine_numbers.update(range(first, first + len(slots)))
        self.on_new_slots(slots)
        return HostedModel(settings, config, folder, slots)

    def _free_numbers(self, count: int) -> int:
        """The first of the smallest that follow each other: metrics are kept by number, and not to grow for ever."""
        return next(
            first for first in itertools.count() if self._engine_numbers.isdisjoint(range(first, first + count))
        )

    def serve_by(self, api_slots: list[Slot]) -> None:
        """The API processes, which are not started yet."""
        self.api_slots = api_slots
        self.on_new_slots(api_slots)
        for slot in api_slots:
            slot.on_ready = self.on_api_process
        self.publish()

    def publish(self) -> None:
        """Have all API processes serve what there is now."""
        self._version += 1
        write_models(models_file(self.runtime), [model.config for model in self.models])
        for slot in self.api_slots:
            if slot.child is not None and slot.child.pid in self._adopted:
                slot.child.tell(word_of(ModelsChanged(self._version)))

    def on_api_process(self, child: ChildProcess) -> None:
        """An API process has become ready; it may have read the file before the last change."""
        self._adopted[child.pid] = ModelsAdopted(0)
        child.tell(word_of(ModelsChanged(self._version)))

    def on_given_up(self, name: str, problem: str) -> None:
        """A model's engines died again and again."""
        for model in self.models:
            if model.name == name:
                model.config = msgspec.structs.replace(model.config, failure=problem)
        self.publish()

    def on_word(self, child: ChildProcess, word: str) -> None:
        """An API process has said something."""
        match read_up(word):
            case ModelsAdopted() as adopted:
                self._adopted[child.pid] = adopted
            case order:
                self.supervisor.spawn(self._carry_out(child, order))

    async def adopted(self) -> str | None:
        """Wait until all API processes serve what was published; why one of them does not, if that is so."""
        version, loop = self._version, asyncio.get_running_loop()
        give_up_at = loop.time() + ADOPTION_SECONDS + self.settings.drain_timeout
        while waiting := [one for one in self._ready() if one.version < version]:
            if loop.time() > give_up_at:
                return f"{len(waiting)} API processes did not take it over in time"
            await asyncio.sleep(POLL_SECONDS)
        return next((one.problem for one in self._ready() if one.problem is not None), None)

    def _ready(self) -> list[ModelsAdopted]:
        """Of each API process that is there now and was ready once."""
        pids = [slot.child.pid for slot in self.api_slots if slot.child is not None]
        return [self._adopted[pid] for pid in pids if pid in self._adopted]

    # ── orders ──

    async def _carry_out(self, child: ChildProcess, order: Order) -> None:
        end = OrderEnd.of(order.id, ShuttingDown())
        try:
            match order:
                case LoadModel():
                    await self._load(order.settings)
                case UnloadModel():
                    await self._unload(self._model(order.model))
                case RestartEngines():
                    self._restart(self._model(order.model))
            end = OrderEnd(order.id)
        except EmbedwayError as error:
            end = OrderEnd.of(order.id, error)
        except Exception:  # an order that fails must not end the models that are served
            logger.exception("order %d could not be carried out", order.id)
            end = OrderEnd.of(order.id, InternalFault(request_id=f"order {order.id}"))
        finally:
            child.tell(word_of(end))

    def _model(self, name: str) -> HostedModel:
        """Raises ModelConflict where it is being changed, or has just gone."""
        model = next((model for model in self.models if model.name == name), None)
        if model is None or model.is_changing:
            raise ModelConflict(param="model", name=name, problem="is being changed by another request")
        return model

    async def _load(self, entry: dict[str, Any]) -> None:
        name = entry["model_path"]
        try:
            # Code that comes with a model is run for those of the command line only.
            settings = settings_of(
                self.settings, {**entry, "trust_remote_code": False}, num_models=len(self.models) + 1
            )
        except InvalidSetting as error:
            raise ModelRefused(param="settings", name=name, problem=error.message) from error
        self._check_names(settings)
        self._loading.append(settings)
        folder = self.new_folder()
        try:
            await self._bring_up(settings, folder)
        except (StartupError, ChildFailed) as error:
            problem = error.message if isinstance(error, StartupError) else str(error)
            raise ModelRefused(param="model", name=name, problem=problem) from error
        finally:
            self._loading.remove(settings)
            if all(model.folder != folder for model in self.models):
                shutil.rmtree(folder, ignore_errors=True)
        logger.info("the model %s was loaded", name)

    async def _bring_up(self, settings: Settings, folder: Path) -> None:
        """Raises StartupError or ChildFailed, and then the model is not there."""
        spec = await declared_elsewhere(settings, folder)
        check_memory(spec, settings.replicas)
        model = self.host(settings, spec, folder)
        try:
            await self.supervisor.add(model.slots)
        except BaseException:
            self._forget(model)
            raise
        self.models.append(model)
        self.publish()
        problem = await self.adopted()
        if problem is not None:
            await self._take_down(model)
            raise StartupError(message=problem)

    async def _unload(self, model: HostedModel) -> None:
        if len(self.models) == 1:
            raise ModelConflict(param="model", name=model.name, problem="is the only one here, and cannot be unloaded")
        await self._take_down(model)
        logger.info("the model %s was unloaded", model.name)

    async def _take_down(self, model: HostedModel) -> None:
        """End it once its requests have been answered, for at most the drain timeout."""
        model.is_changing = True
        self.models.remove(model)
        self.publish()
        await self.adopted()
        await self.supervisor.remove(model.slots)
        self._forget(model)

    def _forget(self, model: HostedModel) -> None:
        first = model.config.first_engine
        self._engine_numbers.difference_update(range(first, first + len(model.slots)))
        shutil.rmtree(model.folder, ignore_errors=True)

    def _restart(self, model: HostedModel) -> None:
        """Begin to; raises RestartInProgress."""
        if model.config.failure is not None:
            model.is_changing = True
            self.supervisor.spawn(self._revive(model))
        elif not self.supervisor.rolling.begin(model.name):
            raise RestartInProgress

    async def _revive(self, model: HostedModel) -> None:
        """Start the engines of a model that was given up."""
        try:
            await self.supervisor.add(model.slots)
        except (StartupError, ChildFailed) as error:
            logger.error("%s does not start: %s", model.name, error)
        else:
            model.config = msgspec.structs.replace(model.config, failure=None)
            self.publish()
        finally:
            model.is_changing = False

    def _check_names(self, settings: Settings) -> None:
        """Raises ModelConflict where one of its names is another model's."""
        taken = {
            name for other in (*(model.settings for model in self.models), *self._loading) for name in names_of(other)
        }
        if twice := next((name for name in names_of(settings) if name in taken), None):
            raise ModelConflict(param="model", name=twice, problem="is served or being loaded already")


def check_memory(spec: ModelSpec, replicas: int) -> None:
    """Raise StartupError for weights that do not fit: without memory the system would end engines of other models."""
    needed = replicas * sum(file.stat().st_size for file in Path(spec.folder).glob("*.safetensors"))
    if needed > free_bytes():
        gigabytes, free = needed / 2**30, free_bytes() / 2**30
        raise StartupError(message=f"its weights take {gigabytes:.1f} GiB, of which {free:.1f} are free")
