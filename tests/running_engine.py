"""The engine's loop with the fake model, in a thread: over a real socket, without a process of its own."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from embedway.adapter_ref import AdapterRef
from embedway.engine import wire
from embedway.engine.adapter_loader import ReadAdapter
from embedway.engine.adapter_store import AdapterStore
from embedway.engine.client import EmbedResult, EngineClient
from embedway.engine.engine_request import EngineRequest, engine_request
from embedway.engine.loop import Engine, EngineIdentity
from embedway.engine.vector_cache import VectorCache
from embedway.models.interface import EmbeddingModel, PackedBatch
from embedway.packed_sequences import PackedSequences
from fake_model import FakeModel, read_fake_adapter


class GatedModel(FakeModel):
    """Waits in every batch until the test opens the gate."""

    def __init__(self) -> None:
        super().__init__()
        self.has_begun = threading.Event()
        self.gate = threading.Event()

    def embed(self, batch: PackedBatch) -> npt.NDArray[np.float32]:
        self.has_begun.set()
        assert self.gate.wait(30)
        return super().embed(batch)


StartEngine: TypeAlias = Callable[..., "RunningEngine"]


class RunningEngine:
    def __init__(
        self,
        model: EmbeddingModel,
        address: str,
        *,
        max_loaded: int | None = None,
        read_adapter: ReadAdapter = read_fake_adapter,
        cache_bytes: int = 0,
    ) -> None:
        self._model = model
        self._engine = Engine(
            EngineIdentity(model, threads=1, load_seconds=0.0, read_adapter=read_adapter),
            address=address,
            max_batch_tokens=64,
            adapter_store=AdapterStore(max_loaded),
            cache=VectorCache(cache_bytes, model.dimension),
        )
        self._thread = threading.Thread(target=self._engine.run)
        self._thread.start()

    def stop(self) -> None:
        """End it; what waits in its queue is dropped, as when the process dies."""
        self._engine.stop()
        if isinstance(self._model, GatedModel):
            self._model.gate.set()
        self._thread.join()


async def until(condition: Callable[[], bool]) -> None:
    async def poll() -> None:
        while not condition():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(poll(), 30)


async def busy_engine(
    client: EngineClient, address: str, start_engine: StartEngine, ids: list[int], **options: Any
) -> tuple[GatedModel, asyncio.Future[EmbedResult]]:
    """One whose model is at these ids until the test opens its gate: what comes meanwhile waits."""
    model = GatedModel()
    start_engine(model, address, **options)
    await until(lambda: client.is_ready)
    blocker = client.submit(packed(ids))
    await until(model.has_begun.is_set)
    return model, blocker


def to_engine(
    request_id: int, sequences: Sequence[Sequence[int]], *, priority: int = 0, fresh: bool = False
) -> EngineRequest:
    """As the engine has it once it has come, without keys."""
    ids = np.concatenate(sequences).astype("<i4").tobytes()
    cu_seqlens = np.array([0, *itertools.accumulate(map(len, sequences))], dtype="<i4").tobytes()
    return engine_request(1, wire.Embed(request_id, priority, 0, ids, cu_seqlens, fresh=fresh))


def packed(*sequences: list[int], pool_start: int = 0, adapters: Sequence[AdapterRef | None] = ()) -> PackedSequences:
    """A request; `adapters` has one for each sequence, None for the base model."""
    plain = PackedSequences.of([np.asarray(ids, dtype=np.int32) for ids in sequences], pool_start=pool_start)
    refs = tuple(dict.fromkeys(filter(None, adapters)))
    if not refs:
        return plain
    indices = [-1 if adapter is None else refs.index(adapter) for adapter in adapters]
    return replace(plain, adapters=refs, adapter_indices=np.array(indices, dtype=np.int32))


def status(client: EngineClient, replica: int = 0) -> wire.Status:
    """The newest one."""
    newest = client.statuses()[replica]
    assert newest is not None
    return newest
