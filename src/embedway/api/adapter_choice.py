"""Which LoRA adapter each item of a request runs with: `model` and `lora_path` → AdapterRefs → sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from embedway.adapter_ref import ADAPTER_FILES, AdapterRef
from embedway.allowed_folders import resolve_within
from embedway.api.adapter_registry import LONGEST_NAME, AdapterRegistry
from embedway.errors import AdapterNotFound, EmptyInput, InvalidType, InvalidValue, PathNotAllowed
from embedway.inputs.items import Items
from embedway.inputs.json_types import describe_json_type
from embedway.packed_sequences import PackedSequences


@dataclass(frozen=True, slots=True)
class AdapterChooser:
    """`roots` are the folders from which requests may load adapters (`--lora-root`)."""

    registry: AdapterRegistry
    roots: Sequence[Path]

    async def choose(self, adapter: str | None, lora_path: object, items: Items) -> list[AdapterRef | None]:
        """One adapter an item, None for the base model.

        `adapter` is the one that `model` names: it wins over `lora_path`. One that is not loaded is loaded from
        `lora_path`, if that is a folder that requests may name. A folder alone is loaded under its own path.

        Raises InvalidType, InvalidValue, EmptyInput, AdapterNotFound, PathNotAllowed, AdapterRefused, EngineNotReady
        or EngineLost.
        """
        names = names_of(lora_path, items)
        if adapter is not None:
            check_length(adapter, "model")
            await self._load_for_model(adapter, names)
            return [self.registry.find(adapter, param="model")] * len(items)
        served: dict[str, str] = {}
        """What `lora_path` asks for → the name under which it is served"""
        for i, name in enumerate(names):
            if name is not None and name not in served:
                served[name] = await self._served_name(name, _param(lora_path, i))
        # all at once, behind the last wait: what is chosen here is sent before anything can unload it
        return [
            None if name is None else self.registry.find(served[name], param=_param(lora_path, i))
            for i, name in enumerate(names)
        ]

    async def _load_for_model(self, adapter: str, names: list[str | None]) -> None:
        """Load the one folder that `lora_path` names under the name that `model` gives, if that is free."""
        path = names[0]
        if path is not None and is_path(path) and set(names) == {path} and self.registry.get(adapter) is None:
            folder = str(self._folder(path, "lora_path"))
            await self.registry.load_on_first_use(adapter, folder, param="lora_path")

    async def _served_name(self, name: str, param: str) -> str:
        """A folder that is not served yet is loaded under its own path."""
        if not is_path(name) or self.registry.get(name) is not None:
            return name
        folder = str(self._folder(name, param))
        if self.registry.get(folder) is None:
            await self.registry.load_on_first_use(folder, folder, param=param)
        return folder

    def _folder(self, path: str, param: str) -> Path:
        if not self.roots:
            raise PathNotAllowed(param=param, problem="the server was started without --lora-root")
        folder = resolve_within(path, self.roots)
        if folder is None:
            raise PathNotAllowed(param=param, problem="it is outside of every --lora-root")
        if not folder.is_dir():
            raise AdapterNotFound(param=param, adapter=path, hint="There is no such folder.")
        if any(resolve_within(str(folder / file), self.roots) is None for file in ADAPTER_FILES):
            raise PathNotAllowed(param=param, problem="a file in it is a link that leads out of every --lora-root")
        return folder


def names_of(lora_path: object, items: Items) -> list[str | None]:
    """What `lora_path` asks for, one an item. Raises InvalidType, EmptyInput, or InvalidValue for the wrong length."""
    names = lora_path if isinstance(lora_path, list) else [lora_path]
    if isinstance(lora_path, list) and len(names) != len(items):
        raise InvalidValue(param="lora_path", problem=f"has {len(names)} entries for {len(items)} items")
    for i, name in enumerate(names):
        if name is None:
            continue
        if not isinstance(name, str):
            raise InvalidType(param=_param(lora_path, i), expected="a string or null", got=describe_json_type(name))
        if not name.strip():
            raise EmptyInput(param=_param(lora_path, i), what="an empty name")
        check_length(name, _param(lora_path, i))
    return names if isinstance(lora_path, list) else names * len(items)


def check_length(name: str, param: str) -> None:
    """Raise InvalidValue for what can be no adapter, before any work is done on it."""
    if len(name) > LONGEST_NAME or "\0" in name:
        raise InvalidValue(
            param=param, problem=f"names an adapter of more than {LONGEST_NAME} characters, or with a NUL"
        )


def is_path(name: str) -> bool:
    """Whether it can only mean a folder, not an adapter's name."""
    return Path(name).is_absolute() or name.startswith(("./", "../", "~"))


def with_adapters(sequences: PackedSequences, adapters: Sequence[AdapterRef | None]) -> PackedSequences:
    """The sequences, each with its adapter."""
    chosen = tuple(dict.fromkeys(ref for ref in adapters if ref is not None))
    if not chosen:
        return sequences
    places: dict[AdapterRef | None, int] = {None: -1} | {ref: i for i, ref in enumerate(chosen)}
    return replace(sequences, adapters=chosen, adapter_indices=np.array([places[ref] for ref in adapters], np.int32))


def _param(lora_path: object, i: int) -> str:
    return f"lora_path[{i}]" if isinstance(lora_path, list) else "lora_path"
