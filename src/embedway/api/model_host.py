"""The models of an API process, kept as the supervisor's file says: opened, marked as failed, and closed."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from embedway.api.adapter_registry import AdapterRegistry
from embedway.api.media_setup import media_reader
from embedway.api.served_models import ServedModel, ServedModels
from embedway.config import Settings
from embedway.engine.client import EngineClient
from embedway.inputs.sequences import SequenceMaker
from embedway.supervisor_words import ModelConfig, read_models

if TYPE_CHECKING:
    from embedway.api.waits import Waits
    from embedway.observability.metrics import Metrics

POLL_SECONDS = 0.02
"""Between looks at whether a model that is to go has requests left"""

OpenModel: TypeAlias = Callable[[ModelConfig], AbstractAsyncContextManager[ServedModel]]


@contextlib.asynccontextmanager
async def opened(config: ModelConfig, metrics: Metrics, waits: Waits) -> AsyncGenerator[ServedModel]:
    """A model's tokenizer read, and its engines looked for. Raises MediaNotInstalled or InvalidSetting."""
    settings = Settings(**config.settings)
    sequences = await asyncio.to_thread(SequenceMaker.load, config.spec, max_request_tokens=settings.max_request_tokens)
    async with (
        EngineClient(config.engine_addresses, on_abort=waits.abort) as engine,
        media_reader(config.spec, settings, metrics.media_read) as media,
    ):
        yield ServedModel.of(
            settings,
            sequences,
            engine=engine,
            adapters=AdapterRegistry(Path(config.adapters_folder), engine),
            metrics=metrics,
            media=media,
            number=config.number,
            first_engine=config.first_engine,
        )


class ModelHost:
    """Belongs to one event loop: `async with ModelHost(…) as host: host.models …`."""

    def __init__(self, file: Path, open_model: OpenModel) -> None:
        self._file = file
        self._open_model = open_model
        self._opened: dict[int, tuple[ServedModel, AsyncExitStack]] = {}
        """By number"""
        self._changing = asyncio.Lock()
        self.models: ServedModels
        """From the beginning of the block"""

    async def __aenter__(self) -> ModelHost:
        try:
            await self._open(read_models(self._file))
        except BaseException:
            await self._close_all()
            raise
        self.models = ServedModels(self._in_order())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._close_all()

    async def first_ready(self) -> None:
        """Wait until some model's engine has answered."""
        waiting = [asyncio.ensure_future(ready(model)) for model in self.models]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waiting:
                one.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def adopt(self, patience: float) -> None:
        """Serve what the file says: return once the engines of all models have answered, and once those that are gone
        have no requests left, for which `patience` is how many seconds they have.

        Raises StartupError where one cannot be opened; the others are served all the same.
        """
        async with self._changing:
            configs = read_models(self._file)
            numbers = {config.number for config in configs}
            gone = [self._opened.pop(number) for number in list(self._opened) if number not in numbers]
            try:
                await self._open(configs)
            finally:
                for config in configs:
                    if config.number in self._opened:
                        fail_as(self._opened[config.number][0], config.failure)
                self.models.replace(self._in_order())
        await asyncio.gather(*(close(model, stack, patience) for model, stack in gone))
        await asyncio.gather(*(ready(model) for model in self.models))

    def _in_order(self) -> list[ServedModel]:
        return [model for _, (model, _) in sorted(self._opened.items())]

    async def _open(self, configs: Iterable[ModelConfig]) -> None:
        """Those that are not."""
        for config in configs:
            if config.number not in self._opened:
                stack = AsyncExitStack()
                model = await stack.enter_async_context(self._open_model(config))
                self._opened[config.number] = (model, stack)

    async def _close_all(self) -> None:
        for _, stack in self._opened.values():
            await stack.aclose()


async def close(model: ServedModel, stack: AsyncExitStack, patience: float) -> None:
    """Once no request holds it, or after `patience` seconds: those that are left end in EngineLost."""
    try:
        for _ in range(math.ceil(patience / POLL_SECONDS)):
            if model.is_idle:
                break
            await asyncio.sleep(POLL_SECONDS)
    finally:
        await stack.aclose()


async def ready(model: ServedModel) -> None:
    """Wait until the model's engine has answered once, or will not, and take over the adapters that it began with."""
    await model.engine.first_ready()
    if model.failure is None:
        await model.adapters.adopt()


def fail_as(model: ServedModel, failure: str | None) -> None:
    """Mark the model as failed, or as served again; who waits for its engines waits no longer."""
    model.failure = failure
    if failure is not None:
        model.engine.give_up()
