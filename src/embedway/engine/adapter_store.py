"""The LoRA adapters of one engine that are loaded now. Pure state; belongs to one thread."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from embedway.adapter_ref import AdapterRef
from embedway.errors import AdapterRefused
from embedway.models.interface import PreparedAdapter


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    ref: AdapterRef
    prepared: PreparedAdapter


@dataclass(slots=True)
class StoredAdapter:
    """One content, with the names under which it was loaded."""

    prepared: PreparedAdapter
    refs: dict[str, AdapterRef] = field(default_factory=dict)

    @property
    def is_pinned(self) -> bool:
        return any(ref.pinned for ref in self.refs.values())


class AdapterStore:
    """Content hash → adapter. The one that was unused for longest makes room, unless it is pinned."""

    def __init__(self, max_loaded: int | None = None) -> None:
        """`max_loaded` counts contents; None: as many as memory holds."""
        self._max_loaded = max_loaded
        self._stored: OrderedDict[str, StoredAdapter] = OrderedDict()
        """The one used last at the end"""

    def get(self, content_hash: str) -> PreparedAdapter | None:
        """The adapter, which counts as a use of it."""
        stored = self._stored.get(content_hash)
        if stored is None:
            return None
        self._stored.move_to_end(content_hash)
        return stored.prepared

    def add(self, loaded: LoadedAdapter) -> bool:
        """Keep an adapter under its name; False where it was there.

        Raises AdapterRefused, and changes nothing, where only pinned ones could make room.
        """
        ref = loaded.ref
        if ref.content_hash not in self._stored:
            self._make_room(ref.name)
            self._stored[ref.content_hash] = StoredAdapter(loaded.prepared)
        self._stored.move_to_end(ref.content_hash)
        refs = self._stored[ref.content_hash].refs
        is_new = ref.name not in refs
        refs[ref.name] = ref
        return is_new

    def discard(self, name: str, content_hash: str) -> None:
        """Let go of what was loaded under this name; its content stays while it has another one."""
        stored = self._stored.get(content_hash)
        if stored is None:
            return
        stored.refs.pop(name, None)
        if not stored.refs:
            del self._stored[content_hash]

    def prepared(self) -> dict[str, PreparedAdapter]:
        """All that are loaded now, by content hash."""
        return {content_hash: stored.prepared for content_hash, stored in self._stored.items()}

    def refs(self) -> list[AdapterRef]:
        return [ref for stored in self._stored.values() for ref in stored.refs.values()]

    def _make_room(self, name: str) -> None:
        if self._max_loaded is None or len(self._stored) < self._max_loaded:
            return
        replaceable = (
            key for key, stored in self._stored.items() if not stored.is_pinned or stored.refs.keys() == {name}
        )
        oldest = next(replaceable, None)
        if oldest is None:
            problem = f"all {self._max_loaded} adapters that may be loaded at once are pinned (--max-loaded-loras)"
            raise AdapterRefused(adapter=name, problem=problem)
        del self._stored[oldest]
