"""The engine process with the fake model: `python fake_engine.py`, as the supervisor runs `embedway.engine.loop`."""

from __future__ import annotations

import sys

from embedway.engine.loop import EngineIdentity, main
from embedway.engine.wire import EngineConfig
from embedway.errors import UnsupportedCheckpoint
from fake_model import FakeModel


def load(config: EngineConfig) -> EngineIdentity:
    match config.dtype:
        case "refuse":
            raise UnsupportedCheckpoint(folder=config.spec.folder, problem="the test says so")
        case "die":
            sys.exit(7)
    return EngineIdentity(FakeModel(), threads=1, load_seconds=0.0)


if __name__ == "__main__":
    main(load)
