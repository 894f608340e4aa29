"""Settings → the processes that there have to be: a model's engines, and the API processes."""

from __future__ import annotations

from pathlib import Path

import msgspec

from embedway.api_keys import ApiKeys
from embedway.config import Settings
from embedway.engine.slot import Patience, Slot, child_slot
from embedway.engine.wire import AdapterSource, ApiConfig, EngineConfig
from embedway.model_settings import names_of
from embedway.model_spec import ModelSpec
from embedway.models.cpu_threads import available_cores


def engine_slots(settings: Settings, spec: ModelSpec, folder: Path, runtime: Path, first: int = 0) -> list[Slot]:
    """Of one model: `folder` is its own, `runtime` the server's, and `first` the number of the first among all engines.

    Each model may use all cores: mostly one has work at a time, and where several do the system shares the cores out.
    """
    threads = settings.threads or max(1, available_cores() // settings.replicas)
    configs = [
        EngineConfig(
            spec=spec,
            address=engine_address(folder, i),
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
            replica=first + i,
            metrics_folder=str(metrics_folder(runtime)),
        )
        for i in range(settings.replicas)
    ]
    # What is served may have changed since the start: a later engine loads the adapters that requests bring.
    return [
        child_slot(
            f"engine {config.replica}",
            "embedway.engine.loop",
            config,
            restart_config=msgspec.structs.replace(config, adapters=[]),
            group=names_of(settings)[0],
            patience=patience_of(settings),
        )
        for config in configs
    ]


def api_slots(settings: Settings, keys: ApiKeys, runtime: Path, socket_fd: int) -> list[Slot]:
    """`socket_fd` is the listening socket."""
    config = ApiConfig(
        settings=settings.for_api_process(),
        keys=keys,
        models_file=str(models_file(runtime)),
        socket_fd=socket_fd,
        metrics_folder=str(metrics_folder(runtime)),
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


def models_file(runtime: Path) -> Path:
    """Where the supervisor says which models there are: `supervisor_words`."""
    return runtime / "models.json"


def engine_address(folder: Path, replica: int) -> str:
    """Of a model's engine in the model's folder."""
    return f"{folder}/engine-{replica}.sock"
