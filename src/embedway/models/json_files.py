"""The JSON files of a checkpoint, read with their types checked: they were written by others."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from embedway.errors import UnsupportedCheckpoint


@dataclass(frozen=True, slots=True)
class JsonObject:
    """One JSON object; a key that is null counts as missing. Readers raise UnsupportedCheckpoint naming the file."""

    folder: Path
    """The checkpoint's folder, which errors name"""
    name: str
    """The file, relative to the folder"""
    values: dict[str, Any]

    def fail(self, problem: str) -> NoReturn:
        raise UnsupportedCheckpoint(folder=self.folder, problem=f"{self.name} {problem}")

    def has(self, key: str) -> bool:
        return self.values.get(key) is not None

    def integer(self, *keys: str) -> int | None:
        """The first of `keys` that is there; whole floats count, as `1e30` is what some write for "no limit"."""
        for key in keys:
            value = self.values.get(key)
            if isinstance(value, float) and value.is_integer():
                value = int(value)
            if value is not None:
                return value if isinstance(value, int) and not isinstance(value, bool) else self._wrong(key, "a number")
        return None

    def positive(self, *keys: str) -> int | None:
        value = self.integer(*keys)
        if value is not None and value < 1:
            self.fail(f"has {value} for {' or '.join(keys)!r}, which must be at least 1")
        return value

    def number(self, key: str, default: float) -> float:
        value = self.values.get(key)
        if value is None:
            return default
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(value) if is_number else self._wrong(key, "a number")

    def boolean(self, key: str, default: bool) -> bool:
        value = self.values.get(key)
        if value is None:
            return default
        return value if isinstance(value, bool) else self._wrong(key, "true or false")

    def text(self, key: str) -> str | None:
        value = self.values.get(key)
        return value if value is None or isinstance(value, str) else self._wrong(key, "a string")

    def object(self, key: str) -> JsonObject:
        """The object under `key`, empty where there is none."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, dict):
            self._wrong(key, "an object")
        return JsonObject(self.folder, self.name, value or {})

    def texts(self, key: str) -> dict[str, str]:
        """An object whose values are strings; null counts as the empty string."""
        values = {name: "" if text is None else text for name, text in self.object(key).values.items()}
        return values if all(isinstance(text, str) for text in values.values()) else self._wrong(key, "strings by name")

    def integers(self, key: str) -> tuple[int, ...]:
        """A list of numbers, in the order of the file; empty where there is none."""
        values = self.values.get(key)
        if values is None:
            return ()
        if not isinstance(values, list) or any(type(value) is not int or value < 1 for value in values):
            self._wrong(key, "a list of numbers above 0")
        return tuple(values)

    def _wrong(self, key: str, expected: str) -> NoReturn:
        self.fail(f"has {self.values[key]!r} for {key!r}, which must be {expected}")


def read_object(folder: Path, name: str) -> JsonObject | None:
    """`<folder>/<name>`, or None where there is no such file. Raises UnsupportedCheckpoint if it is no JSON object."""
    value = read_json(folder, name)
    if value is None:
        return None
    if not isinstance(value, dict):
        raise UnsupportedCheckpoint(folder=folder, problem=f"{name} is not a JSON object")
    return JsonObject(folder, name, value)


def read_json(folder: Path, name: str) -> Any:
    """What `<folder>/<name>` holds, or None where there is no such file. Raises UnsupportedCheckpoint."""
    path = folder / name
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnsupportedCheckpoint(folder=folder, problem=f"{name} cannot be read as JSON: {error}") from error
