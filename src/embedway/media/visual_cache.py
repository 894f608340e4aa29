"""An LRU of Visuals by what they were made of, bounded by their bytes."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TypeAlias

from embedway.visual import MediaKind, Visual

VisualKey: TypeAlias = tuple[MediaKind, bytes]


def key_of(kind: MediaKind, data: bytes) -> VisualKey:
    """A file's content and how it is read. A process serves one model, so its pixel rules need not stand here."""
    return kind, hashlib.blake2b(data, digest_size=32).digest()


@dataclass(slots=True)
class VisualCache:
    """The least recently used Visuals go first when `max_bytes` are full. 0 keeps none."""

    max_bytes: int
    num_bytes: int = 0
    hits: int = 0
    misses: int = 0
    _visuals: OrderedDict[VisualKey, Visual] = field(default_factory=OrderedDict)

    def get(self, key: VisualKey) -> Visual | None:
        visual = self._visuals.get(key)
        if visual is None:
            self.misses += 1
            return None
        self.hits += 1
        self._visuals.move_to_end(key)
        return visual

    def put(self, key: VisualKey, visual: Visual) -> None:
        if key in self._visuals or visual.num_bytes > self.max_bytes:
            return
        self._visuals[key] = visual
        self.num_bytes += visual.num_bytes
        while self.num_bytes > self.max_bytes:
            _, dropped = self._visuals.popitem(last=False)
            self.num_bytes -= dropped.num_bytes

    def clear(self) -> None:
        self._visuals.clear()
        self.num_bytes = 0
