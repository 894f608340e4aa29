"""The engine process with the fake model: `python -m fake_engine`, as the supervisor runs `embedway.engine.loop`."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from embedway.engine.loop import EngineIdentity, main
from embedway.engine.wire import EngineConfig
from embedway.errors import UnsupportedCheckpoint
from fake_model import FakeModel, read_fake_adapter


def wait_at_gate(address: str) -> None:
    """Until a test writes to the pipe beside the engine's socket."""
    with Path(f"{address}.gate").open("rb", buffering=0) as gate:
        gate.read(1)


def load(config: EngineConfig) -> EngineIdentity:
    match config.dtype:
        case "refuse":
            raise UnsupportedCheckpoint(folder=config.spec.folder, problem="the test says so")
        case "die":
            sys.exit(7)
        case "hang":
            threading.Event().wait()
        case "gated":
            wait_at_gate(config.address)
        case "die at the gate":
            wait_at_gate(config.address)
            sys.exit(7)
    return EngineIdentity(FakeModel(), threads=1, load_seconds=0.0, read_adapter=read_fake_adapter)


if __name__ == "__main__":
    main(load)
