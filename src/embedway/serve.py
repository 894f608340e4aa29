"""`embedway serve`: settings → model → processes."""

from __future__ import annotations

import asyncio
import functools
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from embedway.config import Settings
from embedway.engine.supervisor import Slot, Supervisor, child_slot, listen, runtime_folder
from embedway.engine.wire import ApiConfig, EngineConfig
from embedway.errors import UnsupportedCheckpoint
from embedway.model_spec import ModelSpec
from embedway.models.checkpoint import read_spec
from embedway.models.checkpoint_location import Location, locate
from embedway.models.cpu_threads import available_cores
from embedway.models.tokenizer_conversion import needs_conversion
from embedway.observability.metrics import forget_process


@dataclass(frozen=True, slots=True)
class Serving:
    """What runs once the server is ready."""

    settings: Settings
    spec: ModelSpec
    location: Location
    host: str
    port: int
    engine: dict[str, str]
    """What the first engine says of itself: dtype, device, threads, load_seconds, and its model's own facts"""


def serve(settings: Settings, on_ready: Callable[[Serving], object]) -> int:
    """Serve until a signal; return the exit status. Raises StartupError, or ChildFailed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until the supervisor has handlers of its own
    listening = listen(settings.host, settings.port)
    location = locate(
        settings.model_path,
        revision=settings.revision,
        download_dir=settings.download_dir,
        trust_remote_code=settings.trust_remote_code,
    )
    with runtime_folder() as folder:
        spec = prepare_spec(settings, location, folder)
        slots = [*engine_slots(settings, spec, folder), *api_slots(settings, spec, folder, listening.fileno())]
        host, port = listening.getsockname()[:2]

        async def run() -> int:
            supervisor = Supervisor(slots, [listening], settings.drain_timeout)
            return await supervisor.run(lambda facts: on_ready(Serving(settings, spec, location, host, port, facts)))

        return asyncio.run(run())


def prepare_spec(settings: Settings, location: Location, runtime: Path) -> ModelSpec:
    """What the checkpoint declares, with a tokenizer that the API processes can read."""
    spec = read_spec(
        location,
        name=settings.model_path,
        pooling=settings.pooling,
        max_length=settings.max_length,
        trust_remote_code=settings.trust_remote_code,
    )
    if needs_conversion(spec):
        return convert_tokenizer(spec, runtime / "tokenizer")
    return spec


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
    return [
        child_slot(
            f"engine {i}",
            "embedway.engine.loop",
            EngineConfig(
                spec=spec,
                address=engine_address(runtime, i),
                dtype=settings.dtype,
                device=settings.device,
                threads=threads,
                max_batch_tokens=settings.max_batch_tokens,
                target_batch_ms=settings.target_batch_ms,
                log_level=settings.log_level,
            ),
        )
        for i in range(settings.replicas)
    ]


def api_slots(settings: Settings, spec: ModelSpec, runtime: Path, socket_fd: int) -> list[Slot]:
    metrics_folder = runtime / "metrics"
    metrics_folder.mkdir()
    config = ApiConfig(
        settings=settings.revealed(),
        spec=spec,
        engine_addresses=[engine_address(runtime, i) for i in range(settings.replicas)],
        socket_fd=socket_fd,
        metrics_folder=str(metrics_folder),
    )
    return [
        child_slot(
            f"API process {i}",
            "embedway.api.server",
            config,
            drains=True,
            pass_fds=[socket_fd],
            on_death=functools.partial(forget_process, metrics_folder),
        )
        for i in range(settings.api_workers)
    ]


def engine_address(runtime: Path, replica: int) -> str:
    return f"ipc://{runtime}/engine-{replica}.sock"
