"""What the supervisor and the API processes say to each other of models, as words of `child_process.py`: JSON lines.

An API process asks for a change with one of the orders, and gets an `OrderEnd` once it is made. Which models there are
is a file in the server's private folder, which the supervisor alone writes: with each change it tells all API processes
so, and each answers once it serves what the file says.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from embedway import errors
from embedway.errors import EmbedwayError
from embedway.model_spec import ModelSpec

LONGEST_ORDER = 4000
"""Bytes: a pipe takes a line up to 4096 whole, or not at all"""


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One of the models that are served."""

    number: int
    """No two models of a server's life have one in common, those included that were unloaded"""
    settings: dict[str, Any]
    """`Settings.for_api_process()` of the model's own settings"""
    spec: ModelSpec
    engine_addresses: list[str]
    first_engine: int
    """The number of its first engine among all that there are; the others' follow"""
    adapters_folder: str
    """Where the API processes keep the names of its adapters: `api.adapter_registry`"""
    failure: str | None = None
    """Why it is not served any more, as the end of a sentence; None: it is"""


class LoadModel(msgspec.Struct, frozen=True, tag="load"):
    """Up: load a model, and serve it."""

    id: int
    settings: dict[str, Any]
    """As an entry of `Settings.models`"""


class UnloadModel(msgspec.Struct, frozen=True, tag="unload"):
    """Up: let a model go, once its requests have been answered."""

    id: int
    model: str
    """The first of its names"""


class RestartEngines(msgspec.Struct, frozen=True, tag="restart"):
    """Up: replace a model's engines one by one; ends as this begins."""

    id: int
    model: str
    """The first of its names"""


class ModelsAdopted(msgspec.Struct, frozen=True, tag="adopted"):
    """Up: this process serves what the file said at the time of that `ModelsChanged`, or of one after it."""

    version: int
    problem: str | None = None
    """Why it does not serve all of it"""


class OrderEnd(msgspec.Struct, frozen=True, tag="end"):
    """Down: the end of an order."""

    id: int
    error: str | None = None
    """The name of a class in `errors.py`; None: it was carried out"""
    message: str = ""
    param: str | None = None

    @classmethod
    def of(cls, id_: int, error: EmbedwayError) -> OrderEnd:
        return cls(id_, type(error).__name__, error.message, error.param)

    def raise_error(self) -> None:
        if self.error is not None:
            raise getattr(errors, self.error).said(self.message, self.param)


class ModelsChanged(msgspec.Struct, frozen=True, tag="changed"):
    """Down: read the file again."""

    version: int


Order: TypeAlias = LoadModel | UnloadModel | RestartEngines
Up: TypeAlias = LoadModel | UnloadModel | RestartEngines | ModelsAdopted
Down: TypeAlias = OrderEnd | ModelsChanged

_up, _down = msgspec.json.Decoder(Up), msgspec.json.Decoder(Down)
_models = msgspec.json.Decoder(list[ModelConfig])


def word_of(message: Up | Down) -> str:
    return msgspec.json.encode(message).decode()


def read_up(word: str) -> Up:
    return _up.decode(word)


def read_down(word: str) -> Down:
    return _down.decode(word)


def read_models(file: Path) -> list[ModelConfig]:
    return _models.decode(file.read_bytes())


def write_models(file: Path, models: Iterable[ModelConfig]) -> None:
    """Replace the file at once: who reads it sees the old or the new one, whole."""
    new = file.with_suffix(".new")
    new.write_bytes(msgspec.json.encode(list(models)))
    new.replace(file)
