"""`embedway serve`: settings → model → processes."""

from __future__ import annotations

import asyncio
import functools
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from embedway import open_files
from embedway.api_keys import ApiKeys
from embedway.batches.storage import make_data_dir
from embedway.config import Settings
from embedway.declared_model import model_of
from embedway.engine.slot import Patience, Slot, child_slot
from embedway.engine.supervisor import Supervisor, listen, runtime_folder
from embedway.engine.wire import AdapterSource, ApiConfig, EngineConfig
from embedway.errors import InvalidSetting, UnsupportedCheckpoint
from embedway.model_spec import ModelSpec
from embedway.models.checkpoint_location import Location
from embedway.models.cpu_threads import available_cores
from embedway.models.tokenizer_conversion import needs_conversion
from embedway.observability.metrics import forget_process
from embedway.observability.restart_counter import RestartCounter
from embedway.tls import tls_context


@dataclass(frozen=True, slots=True)
class Serving:
    """What runs once the server is ready."""

    settings: Settings
    keys: ApiKeys
    spec: ModelSpec
    location: Location
    host: str
    port: int
    engine: dict[str, str]
    """What the first engine says of itself: dtype, device, threads, load_seconds, and its model's own facts"""


def serve(settings: Settings, on_ready: Callable[[Serving], object]) -> int:
    """Serve until a signal; return the exit status. Raises StartupError, or ChildFailed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until the supervisor has handlers of its own
    open_files.raise_limit()
    keys = read_keys(settings)
    if settings.data_dir is not None:
        make_data_dir(settings.data_dir)
    tls_context(settings)  # the API processes make their own: a fault is better said before anything is loaded
    listening = listen(settings.host, settings.port)
    location, declared = model_of(settings)
    with runtime_folder() as folder:
        spec = with_tokenizer(declared, folder)
        slots = [*engine_slots(settings, spec, folder), *api_slots(settings, keys, spec, folder, listening.fileno())]
        count_restarts(slots, metrics_folder(folder))
        host, port = listening.getsockname()[:2]

        async def run() -> int:
            supervisor = Supervisor(slots, [listening], settings.drain_timeout)
            try:
                return await supervisor.run(
                    lambda facts: on_ready(Serving(settings, keys, spec, location, host, port, facts))
                )
            finally:
                ignore_signals(asyncio.get_running_loop())

        return asyncio.run(run())


def count_restarts(slots: Sequence[Slot], folder: Path) -> None:
    """Have the metrics tell how often each slot's process was replaced, and sum up living processes only."""
    counter = RestartCounter(folder, [slot.name for slot in slots])
    for slot in slots:
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


def with_tokenizer(spec: ModelSpec, runtime: Path) -> ModelSpec:
    """What the checkpoint declares, with a tokenizer that the API processes can read."""
    return convert_tokenizer(spec, runtime / "tokenizer") if needs_conversion(spec) else spec


def convert_tokenizer(spec: ModelSpec, target: Path) -> ModelSpec:
    """Make a tokenizer.json of an older kind of tokenizer, in a process of its own, which imports transformers."""
    command = [sys.executable, "-m", "embedway.models.tokenizer_conversion", spec.tokenizer_folder, str(target)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own module
    if ended.returncode != 0:
        reason = ended.stderr.strip().splitlines()[-1:] or ["the conversion failed"]
        raise UnsupportedCheckpoint(folder=spec.folder, problem=f"its tokenizer cannot be converted ({reason[0]})")
    return msgspec.structs.replace(spec, tokenizer_folder=str(target))


def engine_slots(settings: Settings, spec: ModelSpec, runtime: Path) -> list[Slot]:
    threads = settings.threads or max(1, available_cores() // settings.replicas)
    configs = [
        EngineConfig(
            spec=spec,
            address=engine_address(runtime, i),
            dtype=settings.dtype,
            device=settings.device,
            threads=threads,
            max_batch_tokens=settings.max_batch_tokens,
            target_batch_ms=settings.target_batch_ms,
            log_level=settings.log_level,
            log_format=settings.log_format,
            shares_by_key=settings.fair_share == "keys",
            adapters=[AdapterSource(path.lora_name, path.lora_path, path.pinned) for path in settings.lora_paths],
            max_loaded_loras=settings.max_loaded_loras,
            max_lora_rank=settings.max_lora_rank,
            download_dir=None if settings.download_dir is None else str(settings.download_dir),
            cache_mb=settings.cache_mb,
            replica=i,
            metrics_folder=str(metrics_folder(runtime)),
        )
        for i in range(settings.replicas)
    ]
    # What is served may have changed since the start: a later engine loads the adapters that requests bring.
    return [
        child_slot(
            f"engine {i}",
            "embedway.engine.loop",
            config,
            restart_config=msgspec.structs.replace(config, adapters=[]),
            patience=patience_of(settings),
        )
        for i, config in enumerate(configs)
    ]


def api_slots(settings: Settings, keys: ApiKeys, spec: ModelSpec, runtime: Path, socket_fd: int) -> list[Slot]:
    adapters_folder = runtime / "adapters"
    adapters_folder.mkdir()
    config = ApiConfig(
        settings=settings.for_api_process(),
        keys=keys,
        spec=spec,
        engine_addresses=[engine_address(runtime, i) for i in range(settings.replicas)],
        socket_fd=socket_fd,
        metrics_folder=str(metrics_folder(runtime)),
        adapters_folder=str(adapters_folder),
    )
    return [
        child_slot(
            f"API process {i}",
            "embedway.api.server",
            config,
            drains=True,
            patience=patience_of(settings),
            pass_fds=[socket_fd],
        )
        for i in range(settings.api_workers)
    ]


def patience_of(settings: Settings) -> Patience:
    return Patience(serving=settings.watchdog_timeout, starting=settings.startup_timeout)


def metrics_folder(runtime: Path) -> Path:
    """Where all processes count, made when first asked for."""
    folder = runtime / "metrics"
    folder.mkdir(exist_ok=True)
    return folder


def engine_address(runtime: Path, replica: int) -> str:
    return f"{runtime}/engine-{replica}.sock"
