"""The vectors of the sequences that were embedded lately, by their keys: an LRU bounded in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedway.errors import InvalidSetting

ENTRY_BYTES = 256
"""Of a key and its place in the order, beside the vector: 162 to 211 were measured"""


@dataclass(frozen=True, slots=True)
class Found:
    """Which of the keys that were asked for are in the cache."""

    indices: list[int]
    """Their places among those asked for, in order"""
    vectors: npt.NDArray[np.float32]
    """float32 [found, dimension]: copies"""


class VectorCache:
    """Full vectors as the model gave them, neither cut nor normalised. Thread-safe."""

    def __init__(self, num_bytes: int, dimension: int) -> None:
        """`num_bytes` bounds rows and keys together. Memory is taken as it fills."""
        self.dimension = dimension
        self._entry_bytes = ENTRY_BYTES + 4 * dimension
        self._capacity = num_bytes // self._entry_bytes
        self._rows = np.empty((self._capacity, dimension), dtype=np.float32)
        self._nothing = Found([], self._rows[:0])
        self._lock = threading.Lock()
        self._places: OrderedDict[bytes, int] = OrderedDict()
        """Key → row, the one unused for longest first. Rows are taken in their order, and then from that one."""

    @classmethod
    def of_setting(cls, cache_mb: int, dimension: int) -> VectorCache:
        """Raises InvalidSetting where the system has no such memory at all."""
        try:
            return cls(cache_mb * 2**20, dimension)
        except MemoryError as error:
            raise InvalidSetting(setting="--cache-mb", problem=f"there is no memory for {cache_mb} MiB") from error

    def __len__(self) -> int:
        return len(self._places)

    @property
    def has_room(self) -> bool:
        """For at least one vector."""
        return self._capacity > 0

    @property
    def num_bytes(self) -> int:
        """What it holds now, keys included."""
        return len(self._places) * self._entry_bytes

    def find(self, keys: Sequence[bytes]) -> Found:
        """Those that are there."""
        with self._lock:
            if self._places.keys().isdisjoint(keys):
                return self._nothing
            indices = [i for i, key in enumerate(keys) if key in self._places]
            return Found(indices, self._take([keys[i] for i in indices]))

    def find_all(self, keys: Sequence[bytes]) -> npt.NDArray[np.float32] | None:
        """float32 [n, dimension], a copy; None where one is missing."""
        with self._lock:
            for key in keys:
                if key not in self._places:
                    return None
            return self._take(keys)

    def put(self, keys: Sequence[bytes], vectors: npt.NDArray[np.float32]) -> None:
        """Keep vectors, float32 [n, dimension], by n different keys; those unused for longest make room."""
        first = max(0, len(keys) - self._capacity)
        keys, vectors = keys[first:], vectors[first:]
        with self._lock:
            if len(keys) == 1:  # a third of the time
                self._rows[self._place_for(keys[0])] = vectors[0]
            else:
                self._rows[[self._place_for(key) for key in keys]] = vectors

    def _take(self, keys: Sequence[bytes]) -> npt.NDArray[np.float32]:
        for key in keys:
            self._places.move_to_end(key)
        return self._rows[[self._places[key] for key in keys]]

    def _place_for(self, key: bytes) -> int:
        place = self._places.pop(key, None)
        if place is None:
            is_full = len(self._places) == self._capacity
            place = self._places.popitem(last=False)[1] if is_full else len(self._places)
        self._places[key] = place
        return place

    def flush(self) -> None:
        with self._lock:
            self._places.clear()
