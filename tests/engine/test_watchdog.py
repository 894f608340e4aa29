"""The supervisor's end of the heartbeats, over real child processes that beat as the test says."""

from __future__ import annotations

import asyncio
import math
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import pytest

from embedway.child_process import ChildFailed, ChildProcess
from embedway.engine import watchdog
from embedway.engine.watchdog import listen_to, until_ready

BEAT = "import sys, time; sys.stdin.readline()\nfor _ in range({beats}): print(flush=True); time.sleep(0.02)\n{then}"


class Nothing(msgspec.Struct):
    pass


Start = Callable[..., Awaitable[ChildProcess]]


@pytest.fixture
async def started() -> AsyncIterator[Start]:
    """Starts a child that beats `beats` times and then does `then`; nothing of it is left after the test."""
    children: list[ChildProcess] = []

    async def start(*, beats: int, then: str) -> ChildProcess:
        command = [sys.executable, "-c", BEAT.format(beats=beats, then=then)]
        children.append(await ChildProcess.start("child", command, Nothing()))
        return children[-1]

    yield start
    for child in children:
        child.send(signal.SIGKILL)
        child.cut_lifeline()
        while await child.words() is not None:  # to the end of its stdout: asyncio closes the pipes then
            pass
        await child.wait()


@pytest.fixture(autouse=True)
def _listen_in_short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "LISTEN_SECONDS", 0.1)


async def test_a_child_that_falls_silent_is_killed(started: Start) -> None:
    child = await started(beats=3, then="time.sleep(600)")
    await asyncio.wait_for(listen_to(child, 0.5, print), 30)
    assert await child.wait() == -signal.SIGKILL


async def test_a_child_that_beats_is_left_alone_until_its_end(started: Start) -> None:
    child = await started(beats=75, then="sys.exit(7)")  # for longer than the patience
    assert await child.words() == []
    await asyncio.wait_for(listen_to(child, 1.0, print), 30)
    assert await child.wait() == 7


async def test_words_are_heard_between_beats_whole_and_in_order(started: Start) -> None:
    said: list[str] = []
    child = await started(
        beats=1,
        then="print('one', flush=True); print('tw', end='', flush=True); time.sleep(0.1)\n"
        "print('o\\n\\nthree', flush=True)",
    )
    await asyncio.wait_for(listen_to(child, math.inf, said.append), 30)
    assert said == ["one", "two", "three"]


async def test_a_child_that_never_gets_ready_is_killed_and_said_to_be_late(started: Start) -> None:
    child = await started(beats=0, then="time.sleep(600)")
    with pytest.raises(ChildFailed, match=r"child was not ready within 0\.5 s \(--startup-timeout\)"):
        await asyncio.wait_for(until_ready(child, 0.5), 30)
    assert await child.wait() == -signal.SIGKILL


async def test_one_that_beats_while_it_waits_to_be_ready_is_waited_for(started: Start) -> None:
    child = await started(beats=75, then="print('{}', flush=True); time.sleep(600)")  # for longer than the patience
    assert await asyncio.wait_for(child.ready(), 30) is None  # Python has started
    assert await asyncio.wait_for(until_ready(child, 1.0), 30) == {}


async def test_a_word_before_the_announcement_is_a_beat(started: Start) -> None:
    child = await started(
        beats=1, then="print('restart engines', flush=True); print('{}', flush=True); time.sleep(600)"
    )
    assert await asyncio.wait_for(until_ready(child, math.inf), 30) == {}


async def test_a_process_that_the_system_does_not_start_has_failed() -> None:
    with pytest.raises(ChildFailed, match="child cannot be started: No such file"):
        await ChildProcess.start("child", ["/no/such/program"], Nothing())
