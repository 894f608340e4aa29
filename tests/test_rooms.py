"""What processes must not load: heavy libraries, and the other side's modules.

Who may import whom is import-linter's (`make lint`), which does not see what somebody else's package brings along.
"""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import embedway

LIGHT = (
    *("embedway", "embedway.cli", "embedway.config", "embedway.serve", "embedway.startup_banner"),
    *("embedway.child_process", "embedway.errors", "embedway.model_spec", "embedway.packed_sequences"),
    *("embedway.engine.client", "embedway.engine.supervisor", "embedway.engine.wire", "embedway.engine.scheduler"),
    *("embedway.engine.loop", "embedway.embedder", "embedway.models.architectures", "embedway.models.native_loading"),
    *("embedway.observability.logs", "embedway.observability.metrics"),
    *("embedway.commands.model_tables", "embedway.comparison.model_check", "embedway.load_test.sweep"),
)
"""Modules outside the light rooms that are to be as light as those."""
LIGHT_ROOMS = ("embedway.api", "embedway.inputs", "embedway.media", "embedway.outputs", "embedway.batches")
HEAVY = ("torch", "transformers")
ENGINE_SIDE = ("embedway.engine.loop", "embedway.engine.model_runner", "embedway.engine.scheduler", "embedway.embedder")


def modules_of(rooms: tuple[str, ...]) -> list[str]:
    found = pkgutil.walk_packages(embedway.__path__, "embedway.")
    return [module.name for module in found if module.name.startswith(tuple(f"{room}." for room in rooms))]


def loaded_by(modules: list[str], unwanted: tuple[str, ...]) -> str:
    """Import the modules one after the other in a fresh process; say which brings in which unwanted one, if any."""
    program = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        f"    found = [other for other in {unwanted!r} if other in sys.modules]\n"
        "    if found:\n"
        "        sys.exit(f'{name} loads {found}')\n"
    )
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False).stderr.strip()


def test_no_process_loads_torch_or_transformers_before_a_model_needs_them() -> None:
    modules = modules_of(LIGHT_ROOMS)
    assert {"embedway.api.app", "embedway.api.server", "embedway.inputs.tokenizer"} <= set(modules)
    assert loaded_by([*LIGHT, *modules], HEAVY) == ""


def test_api_processes_load_nothing_of_the_engine_s_side() -> None:
    assert loaded_by(modules_of(LIGHT_ROOMS), ENGINE_SIDE) == ""


def test_opentelemetry_s_sdk_is_loaded_for_traces_only() -> None:
    heavy = ("opentelemetry.sdk", "opentelemetry.exporter")
    assert loaded_by([*modules_of(LIGHT_ROOMS), "embedway.observability.tracing"], heavy) == ""
    assert "loads" in loaded_by(["embedway.observability.request_tracer"], heavy)


def test_api_processes_leave_images_and_videos_to_their_workers() -> None:
    assert loaded_by(["embedway.media.decoder"], ("PIL", "av")) == ""


def test_a_worker_loads_ffmpeg_with_its_first_video() -> None:
    assert loaded_by(["embedway.media.worker"], ("av", "asyncio")) == ""


def test_the_command_line_loads_what_a_command_does_when_it_is_called() -> None:
    lazy = ("embedway.comparison", "embedway.load_test", "embedway.embedder", "embedway.models", "numpy", "matplotlib")
    assert loaded_by(["embedway.cli"], lazy) == ""


def test_what_loads_torch_is_noticed() -> None:
    assert loaded_by(["embedway.errors", "embedway.models.pooling"], HEAVY) == "embedway.models.pooling loads ['torch']"
