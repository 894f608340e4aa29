from __future__ import annotations

import asyncio
from typing import cast

import pytest

from embedway.child_process import ChildProcess
from embedway.engine.slot import end, ended


class Process:
    """asyncio's Process of a child that ends when it is told to."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.stdin = self
        self.is_closed = False

    async def wait(self) -> int:
        await self.ended.wait()
        return 0

    def close(self) -> None:
        self.is_closed = True
        self.ended.set()


def child_of(process: Process) -> ChildProcess:
    return ChildProcess("a child", cast("asyncio.subprocess.Process", process))


async def test_a_child_is_waited_for_and_then_let_go() -> None:
    process = Process()
    assert not await ended(child_of(process), 0.01)
    await end(child_of(process), 0.01)
    assert process.is_closed
    assert await ended(child_of(process), 60)


@pytest.mark.parametrize("patience", [0, 60])
async def test_a_cancellation_that_comes_with_the_end_is_not_lost(patience: float) -> None:
    process = Process()
    process.close = lambda: None
    ending = asyncio.create_task(end(child_of(process), patience))
    for _ in range(5):
        await asyncio.sleep(0)  # until it waits
    process.ended.set()
    for _ in range(10):
        await asyncio.sleep(0)
        if not ending.done():
            ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
