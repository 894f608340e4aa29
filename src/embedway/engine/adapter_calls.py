"""Loading and unloading a LoRA adapter on all replicas of an engine, as one act."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from embedway.adapter_ref import AdapterRef
from embedway.engine import wire
from embedway.engine.replica import CallEnd, Replica
from embedway.errors import AdapterRefused, EngineLost, EngineNotReady


async def load_on_all(replicas: Sequence[Replica], adapter: wire.AdapterSource, ids: Iterator[int]) -> AdapterRef:
    """Have every ready replica load it; where one refuses, the others let go of it again.

    A replica that is lost meanwhile, or is not ready, loads it when a request needs it. `ids` gives request ids. Raises
    AdapterRefused, EngineNotReady where no replica is ready, EngineLost where all were lost.
    """
    ready = [replica for replica in replicas if replica.is_ready]
    if not ready:
        raise EngineNotReady(state="it is starting or restarting")
    ended = await asyncio.gather(*(replica.call(wire.LoadAdapter(next(ids), adapter)) for replica in ready))
    loaded = [(r, message) for r, message in zip(ready, ended, strict=True) if isinstance(message, wire.AdapterLoaded)]
    problem = next((message.problem for message in ended if isinstance(message, wire.AdapterRefusal)), None)
    if len({message.ref.content_hash for _, message in loaded}) > 1:
        problem = "its files changed while they were read: load it again"
    if problem is not None:
        await asyncio.gather(*(unload(r, message.ref, ids) for r, message in loaded if message.is_new))
        raise AdapterRefused(adapter=adapter.name, problem=problem)
    if not loaded:
        raise EngineLost()
    return loaded[0][1].ref


async def unload_on_all(replicas: Sequence[Replica], ref: AdapterRef, ids: Iterator[int]) -> None:
    """Have every ready replica let go of it; requests that hold it finish."""
    await asyncio.gather(*(unload(replica, ref, ids) for replica in replicas if replica.is_ready))


def unload(replica: Replica, ref: AdapterRef, ids: Iterator[int]) -> asyncio.Future[CallEnd]:
    return replica.call(wire.UnloadAdapter(next(ids), ref.name, ref.content_hash))
