"""The supervisor, in the test's process, over engine processes with the fake model."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncGenerator

from msgspec.structs import replace

import fake_engine
from embedway.engine.client import EngineClient
from embedway.engine.slot import NO_LIMIT, Patience, Slot, child_slot
from embedway.engine.supervisor import Supervisor
from embedway.engine.wire import EngineConfig
from embedway.model_spec import ModelSpec

SPEC = ModelSpec(
    name="fake",
    folder="/nowhere",
    tokenizer_folder="/nowhere",
    revision=None,
    model_type="fake",
    vocab_size=1000,
    hidden_size=8,
    max_length=64,
    pooling=("mean",),
    include_prompt=True,
    dense=(),
    dimension=8,
    normalize=True,
    matryoshka_dimensions=(),
    truncate_dim=None,
    prompts={},
    default_prompt_name=None,
    lowercase=False,
)


def engine_config(address: str, dtype: str = "float32") -> EngineConfig:
    return EngineConfig(
        spec=SPEC,
        address=address,
        dtype=dtype,
        device="cpu",
        threads=1,
        max_batch_tokens=64,
        target_batch_ms=None,
        log_level="critical",
    )


def engine_slot(config: EngineConfig, patience: Patience = NO_LIMIT, restart: EngineConfig | None = None) -> Slot:
    """Its successors get `restart`, or the same without adapters."""
    return child_slot(
        "engine 0",
        fake_engine.__name__,
        config,
        restart_config=restart or replace(config, adapters=[]),
        patience=patience,
    )


def supervisor_of(address: str, dtype: str = "float32") -> Supervisor:
    return supervisor_with(engine_config(address, dtype))


def supervisor_with(config: EngineConfig, patience: Patience = NO_LIMIT) -> Supervisor:
    return Supervisor([engine_slot(config, patience)], sockets=[], drain_timeout=5)


@contextlib.asynccontextmanager
async def running(supervisor: Supervisor) -> AsyncGenerator[asyncio.Task[int]]:
    """The supervisor, once it is ready; it is ended by SIGTERM, as an orchestrator would."""
    is_ready = asyncio.Event()
    task = asyncio.create_task(supervisor.run(lambda facts: is_ready.set()))
    await asyncio.wait({task, asyncio.create_task(is_ready.wait())}, return_when=asyncio.FIRST_COMPLETED)
    try:
        yield task
    finally:
        if not task.done():
            os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait({task})


async def until_ready(client: EngineClient, but_not: int = 0, replica: int = 0) -> int:
    """Wait for an engine with another process id than `but_not`; return its id."""

    async def poll() -> int:
        while (status := client.statuses()[replica]) is None or status.pid == but_not:
            await asyncio.sleep(0.01)
        return status.pid

    return await asyncio.wait_for(poll(), 30)
