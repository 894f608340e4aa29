"""`embedway serve`: settings → models → processes."""

from __future__ import annotations

import asyncio
import functools
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from embedway import open_files
from embedway.api_keys import ApiKeys
from embedway.batches.storage import make_data_dir
from embedway.config import Settings
from embedway.engine.slot import Slot
from embedway.engine.supervisor import Supervisor, listen, runtime_folder
from embedway.errors import InvalidSetting
from embedway.fleet import Fleet
from embedway.model_reader import declared_by
from embedway.model_settings import models_of
from embedway.model_spec import ModelSpec
from embedway.models.checkpoint_location import Location
from embedway.observability.metrics import forget_process
from embedway.observability.restart_counter import RestartCounter
from embedway.processes import api_slots, metrics_folder
from embedway.tls import tls_context


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One of the models that run once the server is ready."""

    settings: Settings
    spec: ModelSpec
    location: Location
    engine: dict[str, str]
    """What its first engine says of itself: dtype, device, threads, load_seconds, and its model's own facts"""


@dataclass(frozen=True, slots=True)
class Serving:
    """What runs once the server is ready."""

    settings: Settings
    keys: ApiKeys
    models: list[ServedModel]
    host: str
    port: int


def serve(settings: Settings, on_ready: Callable[[Serving], object]) -> int:
    """Serve until a signal; return the exit status. Raises StartupError, or ChildFailed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until the supervisor has handlers of its own
    open_files.raise_limit()
    keys, models = read_keys(settings), models_of(settings)
    if settings.data_dir is not None:
        make_data_dir(settings.data_dir)
    tls_context(settings)  # the API processes make their own: a fault is better said before anything is loaded
    listening = listen(settings.host, settings.port)
    with runtime_folder() as runtime:
        counts = RestartCounter(metrics_folder(runtime))
        fleet = Fleet(settings, runtime, functools.partial(count_restarts, counts, metrics_folder(runtime)))
        locations = [host_at_start(fleet, model) for model in models]
        fleet.serve_by(api_slots(settings, keys, runtime, listening.fileno()))
        host, port = listening.getsockname()[:2]

        async def announce() -> None:
            await fleet.adopted()
            served = [
                ServedModel(model.settings, model.config.spec, location, model.slots[0].facts)
                for model, location in zip(fleet.models, locations, strict=True)
            ]
            on_ready(Serving(settings, keys, served, host, port))

        async def run() -> int:
            fleet.supervisor = supervisor = Supervisor(
                [*(slot for model in fleet.models for slot in model.slots), *fleet.api_slots],
                [listening],
                settings.drain_timeout,
                on_word=fleet.on_word,
                on_given_up=fleet.on_given_up,
            )
            try:
                return await supervisor.run(lambda _: supervisor.spawn(announce()))
            finally:
                ignore_signals(asyncio.get_running_loop())

        return asyncio.run(run())


def host_at_start(fleet: Fleet, settings: Settings) -> Location:
    """Read what a model declares, and have it served. Raises StartupError."""
    folder = fleet.new_folder()
    location, spec = declared_by(settings, folder)
    fleet.models.append(fleet.host(settings, spec, folder))
    return location


def count_restarts(counter: RestartCounter, folder: Path, slots: Iterable[Slot]) -> None:
    """Have the metrics tell how often each slot's process was replaced, and sum up living processes only."""
    for slot in slots:
        counter.show(slot.name)
        slot.on_restart = counter.count
        slot.on_death = functools.partial(forget_process, folder)


def read_keys(settings: Settings) -> ApiKeys:
    """Raises InvalidSetting."""
    keys = ApiKeys.of(settings)
    if settings.fair_share == "keys" and not keys.users:
        raise InvalidSetting(setting="--fair-share", problem="there are no keys to share between (--api-key)")
    return keys


def ignore_signals(loop: asyncio.AbstractEventLoop) -> None:
    """All has ended: one more signal, which finds no handler once the loop is closed, must not change the status."""
    for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.remove_signal_handler(signal_number)
        signal.signal(signal_number, signal.SIG_IGN)
