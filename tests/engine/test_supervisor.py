"""Real processes: the supervisor over engines with the fake model."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import numpy as np
import psutil
import pytest

import fake_engine
from embedway.child_process import ChildFailed, ChildProcess
from embedway.engine.client import EngineClient
from embedway.engine.supervisor import Slot, Supervisor, listen
from embedway.engine.wire import EngineConfig
from embedway.errors import AddressInUse, EngineLost, StartupError
from embedway.model_spec import ModelSpec
from embedway.packed_sequences import PackedSequences
from fake_model import CRASH_ID, fake_vector

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


def engine_slot(address: str, dtype: str = "float32") -> Slot:
    config = EngineConfig(
        spec=SPEC,
        address=address,
        dtype=dtype,
        device="cpu",
        threads=1,
        max_batch_tokens=64,
        target_batch_ms=None,
        log_level="critical",
    )

    async def start() -> ChildProcess:
        return await ChildProcess.start("engine 0", [sys.executable, fake_engine.__file__], config)

    return Slot("engine 0", start, drains=False)


def supervisor_of(address: str, dtype: str = "float32") -> Supervisor:
    return Supervisor([engine_slot(address, dtype)], sockets=[], drain_timeout=5)


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


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/engine.sock"


async def until_ready(client: EngineClient, but_not: int = 0) -> int:
    """Wait for an engine with another process id than `but_not`; return its id."""

    async def poll() -> int:
        while (status := client.statuses()[0]) is None or status.pid == but_not:
            await asyncio.sleep(0.01)
        return status.pid

    return await asyncio.wait_for(poll(), 30)


def packed(*ids: int) -> PackedSequences:
    return PackedSequences.of([np.asarray(ids, dtype=np.int32)])


async def test_a_killed_engine_comes_back_and_answers(address: str) -> None:
    async with running(supervisor_of(address)), EngineClient([address]) as client:
        first = await until_ready(client)
        os.kill(first, signal.SIGKILL)
        await until_ready(client, but_not=first)
        result = await client.embed(packed(1, 2, 3))
        np.testing.assert_array_equal(result.vectors, [fake_vector([1, 2, 3])])


async def test_a_request_that_kills_two_engines_ends_in_an_error_and_the_server_lives_on(address: str) -> None:
    async with running(supervisor_of(address)), EngineClient([address]) as client:
        first = await until_ready(client)
        with pytest.raises(EngineLost):
            await client.embed(packed(CRASH_ID))
        await until_ready(client, but_not=first)
        np.testing.assert_array_equal((await client.embed(packed(5))).vectors, [fake_vector([5])])


async def test_sigterm_ends_everything_with_status_0(address: str) -> None:
    async with running(supervisor_of(address)) as task, EngineClient([address]) as client:
        pid = await until_ready(client)
        os.kill(os.getpid(), signal.SIGTERM)
        assert await task == 0
    assert not psutil.pid_exists(pid)


async def test_an_engine_that_refuses_the_model_ends_the_start_with_its_reason(address: str) -> None:
    with pytest.raises(StartupError, match="the test says so"):
        await supervisor_of(address, dtype="refuse").run(lambda facts: None)


async def test_an_engine_that_dies_while_it_loads_ends_the_start(address: str) -> None:
    with pytest.raises(ChildFailed, match="engine 0 ended with status 7"):
        await supervisor_of(address, dtype="die").run(lambda facts: None)


async def test_a_crash_loop_gives_up_with_a_status_of_its_own(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedway.engine.supervisor.MAX_QUICK_DEATHS", 2)
    async with running(supervisor_of(address)) as task, EngineClient([address]) as client:
        pid = 0
        for _ in range(3):
            pid = await until_ready(client, but_not=pid)
            os.kill(pid, signal.SIGKILL)
        assert await task == 3


async def test_an_engine_ends_when_its_supervisor_is_gone(address: str) -> None:
    child = await engine_slot(address).start()
    await child.ready()
    child.cut_lifeline()
    assert await asyncio.wait_for(child.wait(), 30) == 0


def test_a_port_in_use_is_found_at_once() -> None:
    with listen("127.0.0.1", 0) as taken, pytest.raises(AddressInUse, match=r"--port"):
        listen("127.0.0.1", taken.getsockname()[1])
