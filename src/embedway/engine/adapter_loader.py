"""A LoRA adapter's source → an adapter of the engine's model. Called in a thread beside serving."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from embedway.adapter_ref import AdapterRef
from embedway.engine.adapter_store import LoadedAdapter
from embedway.engine.wire import AdapterSource
from embedway.errors import AdapterRefused
from embedway.models.adapter_checkpoint import AdapterWeights, read_adapter
from embedway.models.adapter_location import locate_adapter
from embedway.models.checkpoint_location import looks_like_a_folder
from embedway.models.interface import EmbeddingModel, PreparedAdapter

logger = logging.getLogger("embedway.engine")


class ReadAdapter(Protocol):
    """`models.adapter_checkpoint.read_adapter`, and what tests put in its place."""

    def __call__(self, folder: Path, *, name: str, max_rank: int | None) -> AdapterWeights: ...


@dataclass(frozen=True, slots=True)
class AdapterOrder:
    """What is to be loaded."""

    adapter: AdapterSource
    content_hash: str | None = None
    """Files with another one are refused; None: whatever the files hold"""

    @classmethod
    def of_ref(cls, ref: AdapterRef) -> AdapterOrder:
        """An adapter that was loaded before, here or elsewhere."""
        return cls(AdapterSource(ref.name, ref.folder, ref.pinned), ref.content_hash)

    @property
    def is_local(self) -> bool:
        """Nothing has to be downloaded."""
        return looks_like_a_folder(self.adapter.source)

    def ref(self) -> AdapterRef:
        """The ref that this order is of."""
        assert self.content_hash is not None
        return AdapterRef(self.adapter.name, self.adapter.source, self.content_hash, self.adapter.pinned)


@dataclass(frozen=True, slots=True)
class AdapterLoader:
    """Loads adapters for one model."""

    model: EmbeddingModel
    max_rank: int | None = None
    download_dir: str | None = None
    read: ReadAdapter = read_adapter

    def load(self, order: AdapterOrder, loaded: Mapping[str, PreparedAdapter]) -> LoadedAdapter:
        """Read the files; an adapter of the same content in `loaded` is taken as it is.

        Raises AdapterRefused, whatever goes wrong.
        """
        adapter = order.adapter
        try:
            folder = locate_adapter(adapter.source, name=adapter.name, download_dir=self.download_dir)
            weights = self.read(folder, name=adapter.name, max_rank=self.max_rank)
            if order.content_hash not in (None, weights.content_hash):
                problem = "its files have changed since it was loaded: load it again"
                raise AdapterRefused(adapter=adapter.name, problem=problem)
            prepared = loaded.get(weights.content_hash)
            if prepared is None:
                prepared = self.model.make_adapter(weights)
        except AdapterRefused:
            raise
        except Exception as error:
            raise AdapterRefused(adapter=adapter.name, problem=explain(error, adapter.name)) from error
        return LoadedAdapter(
            AdapterRef(adapter.name, str(folder), weights.content_hash, adapter.pinned),
            prepared,
        )


def explain(error: Exception, name: str) -> str:
    """Why an adapter was not loaded, where nobody refused it."""
    if is_out_of_memory(error):
        logger.warning("there is no memory left for the adapter %r: %s", name, error)
        return "there is not enough memory left for it"
    logger.error("the adapter %r could not be loaded", name, exc_info=error)
    return "the server failed on it, and has logged why"


def is_out_of_memory(error: Exception) -> bool:
    """torch's errors are known by name and, on a CPU, by their words alone: it is not imported here."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or "can't allocate memory" in str(error)
