"""`python -m embedway.model_reader`: what a model that is to be loaded declares, read in a process of its own.

A model of an operator's choice is found, perhaps downloaded, and parsed while others are served: the supervisor waits
for a process that it can end.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from embedway.child_process import ChildProcess, ParentLink
from embedway.config import Settings
from embedway.declared_model import DeclaredModel, model_of
from embedway.engine.slot import end
from embedway.engine.watchdog import until_ready
from embedway.errors import StartupError, UnsupportedCheckpoint
from embedway.model_spec import ModelSpec
from embedway.models.tokenizer_conversion import needs_conversion

END_SECONDS = 5.0
SPEC_FILE = "spec.json"


class ReaderConfig(msgspec.Struct, frozen=True):
    settings: dict[str, Any]
    """The model's, as `Settings.for_api_process()`"""
    folder: str
    """The model's own below the server's: for the spec, and for a tokenizer that has to be converted"""


def declared_by(settings: Settings, folder: Path) -> DeclaredModel:
    """What the model's files declare, with a tokenizer that the API processes can read, if need be below `folder`.

    Raises ModelNotAvailable, UnsupportedCheckpoint or InvalidSetting.
    """
    location, spec = model_of(settings)
    return DeclaredModel(location, convert_tokenizer(spec, folder / "tokenizer") if needs_conversion(spec) else spec)


async def declared_elsewhere(settings: Settings, folder: Path) -> ModelSpec:
    """The same spec, read by a process of its own. Raises StartupError, or ChildFailed."""
    command = [sys.executable, "-m", "embedway.model_reader"]
    config = ReaderConfig(settings.for_api_process(), str(folder))
    child = await ChildProcess.start("the process that reads the model's files", command, config)
    try:
        await until_ready(child, math.inf)
    except BaseException:
        await end(child, 0)
        raise
    await end(child, END_SECONDS)
    return msgspec.json.decode((folder / SPEC_FILE).read_bytes(), type=ModelSpec)


def convert_tokenizer(spec: ModelSpec, target: Path) -> ModelSpec:
    """Make a tokenizer.json of an older kind of tokenizer, in a process of its own, which imports transformers."""
    command = [sys.executable, "-m", "embedway.models.tokenizer_conversion", spec.tokenizer_folder, str(target)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own module
    if ended.returncode != 0:
        reason = ended.stderr.strip().splitlines()[-1:] or ["the conversion failed"]
        raise UnsupportedCheckpoint(folder=spec.folder, problem=f"its tokenizer cannot be converted ({reason[0]})")
    return msgspec.structs.replace(spec, tokenizer_folder=str(target))


def main() -> None:
    link = ParentLink()
    config = link.read_config(ReaderConfig)
    link.on_parent_gone(lambda: os._exit(0))
    try:
        _, spec = declared_by(Settings(**config.settings), Path(config.folder))
    except StartupError as error:
        link.fail(error)
    else:
        Path(config.folder, SPEC_FILE).write_bytes(msgspec.json.encode(spec))  # it may be longer than a pipe takes
        link.announce_ready()


if __name__ == "__main__":
    main()
