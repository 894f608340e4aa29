"""Real processes: the supervisor over engines with the fake model."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import numpy as np
import psutil
import pytest
from msgspec.structs import replace

from embedway.child_process import ChildFailed
from embedway.engine.client import EngineClient
from embedway.engine.slot import Patience
from embedway.engine.supervisor import Supervisor, listen, runtime_folder
from embedway.engine.wire import AdapterSource
from embedway.errors import AdapterRefused, AddressInUse, EngineCrashed, ItemFailed, StartupError
from fake_model import ADAPTER_FILE, CRASH_ID, HANG_ID, MEMORY_ID, REFUSED, FakeAdapter, fake_vector, write_fake_adapter
from fake_supervisor import engine_config, engine_slot, running, supervisor_of, supervisor_with, until_ready
from running_engine import packed, until

PATIENCE = Patience(serving=1.0)
"""Two heartbeats: what a stopped engine misses, and a busy machine hardly ever does"""


async def test_a_killed_engine_comes_back_and_answers(address: str) -> None:
    async with running(supervisor_of(address)), EngineClient([address]) as client:
        first = await until_ready(client)
        os.kill(first, signal.SIGKILL)
        await until_ready(client, but_not=first)
        result = await client.embed(packed([1, 2, 3]))
        np.testing.assert_array_equal(result.vectors, [fake_vector([1, 2, 3])])


async def test_each_replacement_is_told_with_what_ended_the_process_before(address: str) -> None:
    slot, told = engine_slot(engine_config(address), PATIENCE), list[tuple[str, str]]()
    slot.on_restart = lambda name, cause: told.append((name, cause))
    async with running(Supervisor([slot], sockets=[], drain_timeout=5)), EngineClient([address]) as client:
        pid = await until_ready(client)
        for signal_number in (signal.SIGKILL, signal.SIGSTOP):
            os.kill(pid, signal_number)
            pid = await until_ready(client, but_not=pid)
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: len(told) == 3)
    assert told == [("engine 0", cause) for cause in ("signal", "hang", "rolling")]


async def test_a_request_that_kills_two_engines_ends_in_an_error_and_the_server_lives_on(address: str) -> None:
    async with running(supervisor_of(address)), EngineClient([address]) as client:
        first = await until_ready(client)
        with pytest.raises(EngineCrashed):
            await client.embed(packed([CRASH_ID]))
        await until_ready(client, but_not=first)
        np.testing.assert_array_equal((await client.embed(packed([5]))).vectors, [fake_vector([5])])


async def test_the_neighbours_of_a_request_that_kills_engines_get_their_vectors(address: str) -> None:
    async with running(supervisor_of(address)), EngineClient([address]) as client:
        await until_ready(client)
        neighbours = [packed([i]) for i in range(1, 21)]
        futures = [client.submit(request) for request in (*neighbours[:10], packed([CRASH_ID]), *neighbours[10:])]
        results = await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), 60)
        assert isinstance(results.pop(10), EngineCrashed)
        for i, result in enumerate(results, 1):
            assert not isinstance(result, BaseException), result
            np.testing.assert_array_equal(result.vectors, [fake_vector([i])])


async def test_a_request_for_which_memory_does_not_suffice_fails_alone_and_the_engine_lives_on(address: str) -> None:
    async with running(supervisor_of(address)), EngineClient([address]) as client:
        first = await until_ready(client)
        requests = [packed([1, 2]), packed([MEMORY_ID]), packed([3])]
        results = await asyncio.gather(*map(client.submit, requests), return_exceptions=True)
        assert isinstance(results.pop(1), ItemFailed)
        for ids, result in zip(([1, 2], [3]), results, strict=True):
            assert not isinstance(result, BaseException), result
            np.testing.assert_array_equal(result.vectors, [fake_vector(ids)])
        assert await until_ready(client) == first


async def test_an_engine_that_is_stopped_is_killed_and_its_request_goes_to_the_successor(address: str) -> None:
    async with running(supervisor_with(engine_config(address), PATIENCE)), EngineClient([address]) as client:
        first = await until_ready(client)
        os.kill(first, signal.SIGSTOP)
        result = await asyncio.wait_for(client.embed(packed([1, 2, 3])), 60)
        np.testing.assert_array_equal(result.vectors, [fake_vector([1, 2, 3])])
        assert await until_ready(client) != first


async def test_a_model_that_never_returns_costs_the_request_and_not_the_server(address: str) -> None:
    """Its I/O thread answers pings all the while: only the run loop stands still."""
    async with running(supervisor_with(engine_config(address), PATIENCE)), EngineClient([address]) as client:
        first = await until_ready(client)
        with pytest.raises(EngineCrashed):
            await asyncio.wait_for(client.embed(packed([HANG_ID])), 60)
        await until_ready(client, but_not=first)
        np.testing.assert_array_equal((await client.embed(packed([5]))).vectors, [fake_vector([5])])


async def test_sigterm_ends_everything_with_status_0(address: str) -> None:
    async with running(supervisor_of(address)) as task, EngineClient([address]) as client:
        pid = await until_ready(client)
        os.kill(os.getpid(), signal.SIGTERM)
        assert await task == 0
    assert not psutil.pid_exists(pid)


async def test_an_engine_that_refuses_the_model_ends_the_start_with_its_reason(address: str) -> None:
    with pytest.raises(StartupError, match="the test says so"):
        await supervisor_of(address, dtype="refuse").run(lambda facts: None)


async def test_adapters_are_loaded_before_the_engine_is_ready_and_its_first_status_has_them(
    address: str, tmp_path: Path
) -> None:
    sources = [
        AdapterSource("one", str(write_fake_adapter(tmp_path / "a", "text one"))),
        AdapterSource("two", str(write_fake_adapter(tmp_path / "b", "text two")), pinned=True),
    ]
    config = replace(engine_config(address), adapters=sources, max_loaded_loras=2)
    async with running(supervisor_with(config)), EngineClient([address]) as client:
        await until_ready(client)
        [status] = client.statuses()
        assert status is not None
        one, two = status.adapters
        assert (one.name, one.pinned, two.name, two.pinned) == ("one", False, "two", True)
        vectors = (await client.embed(packed([1, 2], adapters=[one]))).vectors
        np.testing.assert_array_equal(vectors, [fake_vector([1, 2]) + FakeAdapter.of("text one").shift])


async def test_an_adapter_that_is_refused_ends_the_start_with_its_reason(address: str, tmp_path: Path) -> None:
    refused = AdapterSource("bad", str(write_fake_adapter(tmp_path / "a", REFUSED)))
    config = replace(engine_config(address), adapters=[refused])
    with pytest.raises(StartupError, match=r"--lora-paths: .*'bad' cannot be loaded: the test says so") as error:
        await supervisor_with(config).run(lambda facts: None)
    assert error.value.exit_status == 2


async def test_more_adapters_than_may_be_loaded_end_the_start(address: str, tmp_path: Path) -> None:
    sources = [AdapterSource(name, str(write_fake_adapter(tmp_path / name, name))) for name in ("a", "b")]
    config = replace(engine_config(address), adapters=sources, max_loaded_loras=1)
    with pytest.raises(StartupError, match="there are 2 adapters, but 1 may be loaded at once"):
        await supervisor_with(config).run(lambda facts: None)


async def test_an_engine_comes_back_even_where_an_adapter_s_files_are_gone(address: str, tmp_path: Path) -> None:
    """What needs that adapter is refused then; all else is served, and others are loaded by the requests for them."""
    gone = write_fake_adapter(tmp_path / "gone", "text one")
    sources = [AdapterSource("gone", str(gone)), AdapterSource("kept", str(write_fake_adapter(tmp_path / "k", "two")))]
    config = replace(engine_config(address), adapters=sources)
    async with running(supervisor_with(config)), EngineClient([address]) as client:
        first = await until_ready(client)
        [before] = client.statuses()
        assert before is not None
        (gone / ADAPTER_FILE).unlink()
        os.kill(first, signal.SIGKILL)
        await until_ready(client, but_not=first)
        missing, kept = before.adapters
        with pytest.raises(AdapterRefused, match="'gone' cannot be loaded"):
            await client.embed(packed([1], adapters=[missing]))
        result = await client.embed(packed([1], adapters=[kept]))
        np.testing.assert_array_equal(result.vectors, [fake_vector([1]) + FakeAdapter.of("two").shift])
        np.testing.assert_array_equal((await client.embed(packed([1]))).vectors, [fake_vector([1])])


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


def two_models(tmp_path: Path, second_dtype: str = "float32") -> tuple[Supervisor, list[str]]:
    """One engine each, and the addresses."""
    addresses = [f"{tmp_path}/{name}.sock" for name in ("one", "other")]
    slots = [engine_slot(engine_config(addresses[0])), engine_slot(engine_config(addresses[1], second_dtype))]
    for slot, group in zip(slots, ("one", "other"), strict=True):
        slot.group = group
    return Supervisor(slots, sockets=[], drain_timeout=5), addresses


async def test_an_engine_that_dies_again_and_again_is_given_up_and_the_server_with_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedway.engine.supervisor.MAX_QUICK_DEATHS", 1)
    both, [address, other] = two_models(tmp_path)
    given_up: list[tuple[str, str]] = []
    both.on_given_up = lambda *what: given_up.append(what)
    async with running(both) as task, EngineClient([address]) as kept, EngineClient([other]) as client:
        pid, kept_pid = 0, await until_ready(kept)
        for _ in range(2):
            pid = await until_ready(client, but_not=pid)
            os.kill(pid, signal.SIGKILL)
        await until(lambda: bool(given_up))
        [(group, problem)] = given_up
        assert (group, problem) == ("other", "engine 0 was ended by SIGKILL (out of memory?), the 2th time in a row")
        assert await until_ready(kept) == kept_pid
        np.testing.assert_array_equal((await kept.embed(packed([5]))).vectors, [fake_vector([5])])
        for _ in range(2):
            os.kill(kept_pid, signal.SIGKILL)
            if not task.done():
                kept_pid = await until_ready_or_done(kept, kept_pid, task)
        assert await task == 3


async def until_ready_or_done(client: EngineClient, but_not: int, task: asyncio.Task[int]) -> int:
    await until(lambda: task.done() or ((status := client.statuses()[0]) is not None and status.pid != but_not))
    return 0 if task.done() else await until_ready(client, but_not)


async def test_one_of_several_models_that_does_not_start_ends_the_start_with_its_name(tmp_path: Path) -> None:
    both, _ = two_models(tmp_path, second_dtype="refuse")
    with pytest.raises(StartupError, match=r"^other: .*the test says so"):
        await both.run(lambda facts: None)


async def test_engines_are_added_and_removed_while_others_run(tmp_path: Path) -> None:
    both, [address, other] = two_models(tmp_path)
    late = both.slots.pop()
    async with running(both), EngineClient([address]) as kept, EngineClient([other]) as client:
        pid = await until_ready(kept)
        await both.add([late])
        late_pid = await until_ready(client)
        os.kill(late_pid, signal.SIGKILL)  # it is kept alive, too
        late_pid = await until_ready(client, but_not=late_pid)
        both.rolling.ask("other")
        late_pid = await until_ready(client, but_not=late_pid)
        await both.remove([late])
        assert not psutil.pid_exists(late_pid)
        assert await until_ready(kept) == pid
        with pytest.raises(StartupError, match="the test says so"):
            await both.add([engine_slot(engine_config(other, "refuse"))])
        assert [slot.group for slot in both.slots] == ["one"]


async def test_an_engine_ends_when_its_supervisor_is_gone(address: str) -> None:
    child = await engine_slot(engine_config(address)).start()
    await child.ready()
    child.cut_lifeline()
    assert await asyncio.wait_for(child.wait(), 30) == 0


def test_a_port_in_use_is_found_at_once() -> None:
    with listen("127.0.0.1", 0) as taken, pytest.raises(AddressInUse, match=r"--port"):
        listen("127.0.0.1", taken.getsockname()[1])


def test_the_folder_of_the_sockets_is_its_user_s_alone_and_gone_at_the_end() -> None:
    with runtime_folder() as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()
