"""The names of the LoRA adapters that are served, shared by all API processes: a file in their private folder.

Engines know adapters by content and load by themselves what a request needs, so this file is all that has to agree.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import fcntl
import os
import time
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from embedway.adapter_ref import AdapterRef
from embedway.errors import AdapterNotFound, AdapterRefused, EngineNotReady, InvalidValue

if TYPE_CHECKING:
    from embedway.engine.client import EngineClient

FILE_NAME = "adapters.json"
MOST_NAMES = 1000
"""With so many adapters, requests may not add any: they can give names of their own, without end."""
MOST_COMPARED = 200
"""Names that are looked through for one like another"""
LONGEST_NAME = 512
"""Characters: it may be a path."""
NAMES_SHOWN = 5

_decoder = msgspec.json.Decoder(list[AdapterRef])


class AdapterRegistry:
    """name → AdapterRef, the same in every process that has the same file."""

    def __init__(self, folder: Path, engine: EngineClient) -> None:
        self._path = folder / FILE_NAME
        self._engine = engine
        self._read: tuple[tuple[int, int], dict[str, AdapterRef]] | None = None
        """What the file held, and which version of it that was"""
        self._first_uses: dict[tuple[str, str], asyncio.Task[None]] = {}

    def all(self) -> dict[str, AdapterRef]:
        """By name, in the order in which they were loaded."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return {}
        version = (status.st_mtime_ns, status.st_ino)
        if self._read is None or self._read[0] != version:
            self._read = (version, read_registry(self._path))
        return self._read[1]

    def get(self, name: str) -> AdapterRef | None:
        return self.all().get(name)

    def find(self, name: str, *, param: str) -> AdapterRef:
        """Raises AdapterNotFound, with names that are like the one given; EngineNotReady before `adopt`."""
        ref = self.get(name)
        if ref is None and self._read is None:
            raise EngineNotReady(state="it is starting")
        if ref is None:
            raise AdapterNotFound(param=param, adapter=name, hint=self._hint(name))
        return ref

    async def adopt(self) -> None:
        """Take over the adapters that the engines loaded at their start, unless another process has, or did before."""

        def work() -> None:
            with _exclusively(self._path.with_suffix(".lock")):
                if not self._path.exists():
                    write_registry(self._path, at_start)

        at_start = next((status.adapters for status in self._engine.statuses() if status is not None), [])
        await asyncio.to_thread(work)

    async def load(self, name: str, source: str, *, pinned: bool = False) -> None:
        """For the operator: load a folder or a Hub id into every engine, then serve it under `name`.

        An adapter that had the name is replaced. Raises InvalidValue for the name; AdapterRefused, EngineNotReady or
        EngineLost, and then nothing has changed.
        """
        check_name(name, param="lora_name")
        with _blamed_on("lora_path"):
            ref = await self._engine.load_adapter(name, source, pinned=pinned)
        before = await self._update(lambda adapters: put(adapters, ref))
        if before is not None and before.content_hash != ref.content_hash:
            await self._engine.unload_adapter(before)

    async def load_on_first_use(self, name: str, folder: str, *, param: str) -> None:
        """For a request: serve a folder under a name that is free; where it is not any more, the name stays as it is.

        Goes on where the caller is cancelled; the same load asked for twice happens once. Raises as `load`, and
        AdapterRefused where requests have given too many names; the error is blamed on `param`.
        """
        check_name(name, param=param)
        task = self._first_uses.get((name, folder))
        if task is None:
            task = asyncio.create_task(self._load_on_first_use(name, folder))
            self._first_uses[name, folder] = task
            task.add_done_callback(lambda _: self._first_uses.pop((name, folder)))
        try:
            with _blamed_on(param):
                await asyncio.shield(task)
        finally:
            del task  # it has the error that it brings, which has this frame: neither would be freed

    async def unload(self, name: str) -> None:
        """Serve it no longer; requests under way still get their vectors. Raises AdapterNotFound."""
        ref = await self._update(lambda adapters: adapters.pop(name, None))
        if ref is None:
            raise AdapterNotFound(param="lora_name", adapter=name, hint=self._hint(name))
        await self._engine.unload_adapter(ref)

    async def _load_on_first_use(self, name: str, folder: str) -> None:
        ref = await self._engine.load_adapter(name, folder, pinned=False)
        try:
            before = await self._update(lambda adapters: put_if_free(adapters, ref))
        except AdapterRefused:
            await self._engine.unload_adapter(ref)
            raise
        if before is not None and before.content_hash != ref.content_hash:
            await self._engine.unload_adapter(ref)

    async def _update(self, change: Callable[[dict[str, AdapterRef]], AdapterRef | None]) -> AdapterRef | None:
        """Change the file, alone among all processes; what `change` returns."""

        def work() -> AdapterRef | None:
            with _exclusively(self._path.with_suffix(".lock")):
                adapters = read_registry(self._path) if self._path.exists() else {}
                result = change(adapters)
                write_registry(self._path, adapters.values())
            return result

        return await asyncio.to_thread(work)

    def _hint(self, name: str) -> str:
        names = list(self.all())[:MOST_COMPARED]
        if not names:
            return "None is."
        if len(name) > LONGEST_NAME:
            return "No name is so long."
        close = difflib.get_close_matches(name, names, NAMES_SHOWN, cutoff=0.5)
        return f"Did you mean {_listed(close)}?" if close else f"Loaded: {_listed(names)}."


def check_name(name: str, *, param: str) -> None:
    """Raise InvalidValue unless it may stand in a list and in a log."""
    if not name.isprintable() or name != name.strip() or not 0 < len(name) <= LONGEST_NAME:
        problem = f"must name the adapter in 1 to {LONGEST_NAME} printable characters, without blanks around them"
        raise InvalidValue(param=param, problem=problem)


def put(adapters: dict[str, AdapterRef], ref: AdapterRef) -> AdapterRef | None:
    """What had the name before"""
    before = adapters.get(ref.name)
    adapters[ref.name] = ref
    return before


def put_if_free(adapters: dict[str, AdapterRef], ref: AdapterRef) -> AdapterRef | None:
    """What has the name already. Raises AdapterRefused where there are too many names."""
    if ref.name not in adapters and len(adapters) >= MOST_NAMES:
        raise AdapterRefused(adapter=ref.name, problem=f"{MOST_NAMES} adapters are served already")
    return adapters.setdefault(ref.name, ref)


def read_registry(path: Path) -> dict[str, AdapterRef]:
    return {ref.name: ref for ref in _decoder.decode(path.read_bytes())}


def write_registry(path: Path, adapters: Iterable[AdapterRef]) -> None:
    """Replace the file at once: who reads it sees the old or the new one, whole, and its time tells them apart."""
    new = path.with_suffix(".new")
    new.write_bytes(msgspec.json.encode(list(adapters)))
    newest = max(time.time_ns(), path.stat().st_mtime_ns + 1 if path.exists() else 0)  # the clock's grain is coarse
    os.utime(new, ns=(newest, newest))
    new.replace(path)


@contextlib.contextmanager
def _blamed_on(param: str) -> Generator[None]:
    """A refused adapter is the fault of this field."""
    try:
        yield
    except AdapterRefused as error:
        error.param = param
        raise


@contextlib.contextmanager
def _exclusively(path: Path) -> Generator[None]:
    """Among all processes; the lock goes with its holder, however that ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _listed(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:NAMES_SHOWN]))
    return shown + (f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else "")
