"""A process that there has to be, as the supervisor sees it, and its end."""

from __future__ import annotations

import asyncio
import itertools
import math
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from embedway.child_process import ChildProcess
from embedway.engine.watchdog import listen_to, until_ready

if TYPE_CHECKING:
    import msgspec

    from embedway.observability.restart_counter import RestartCause

KILL_AFTER_SECONDS = 5

StartChild: TypeAlias = Callable[[], Awaitable[ChildProcess]]


@dataclass(frozen=True, slots=True)
class Patience:
    """How many seconds a process may be silent before it is killed; 0: any number."""

    serving: float = 0.0
    """Without a heartbeat"""
    starting: float = 0.0
    """Before it is ready, since its start or its last heartbeat"""


NO_LIMIT = Patience()


@dataclass(slots=True, eq=False)
class Slot:
    """A process that there has to be: the one that is there now, and how often it died."""

    name: str
    start: StartChild
    drains: bool
    """True: it is asked to finish its work (SIGTERM) before it has to go."""
    patience: Patience
    group: str = ""
    """The model whose engine it is: where one dies again and again, all of its group are given up, and no others"""
    child: ChildProcess | None = None
    quick_deaths: int = 0
    """In a row, without a process that lived for long or was put in place by a rolling restart"""
    on_death: Callable[[int], object] | None = None
    """Called with the id of each process that ended by itself"""
    on_restart: Callable[[str, RestartCause], object] = lambda *_: None
    """Called with the slot's name as another process is started in its place"""
    on_ready: Callable[[ChildProcess], object] = lambda _: None
    """Called with each process that became ready, but those that a rolling restart put in place"""
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by whoever puts another process in its place"""
    facts: dict[str, str] = field(default_factory=dict)
    """What the process said of itself when it was first ready"""

    async def until_ready(self, child: ChildProcess) -> dict[str, str]:
        """The facts of a process that was started for this slot. Raises StartupError or ChildFailed."""
        return await until_ready(child, self.patience.starting or math.inf)

    async def end_of(self, child: ChildProcess, on_word: Callable[[str], object]) -> int:
        """Wait for the end of a process that was ready, and bring it about where it hangs; return its exit status.

        `on_word` is called with each word that it says.
        """
        listening = asyncio.create_task(listen_to(child, self.patience.serving or math.inf, on_word))
        try:
            return await child.wait()
        finally:
            await cancel_all([listening])


def child_slot(
    name: str,
    module: str,
    config: msgspec.Struct,
    *,
    restart_config: msgspec.Struct | None = None,
    drains: bool = False,
    group: str = "",
    patience: Patience = NO_LIMIT,
    pass_fds: Sequence[int] = (),
) -> Slot:
    """A slot for `python -m MODULE`, whose successors get `restart_config`, or what the first one got."""
    command = [sys.executable, "-m", module]
    configs = itertools.chain([config], itertools.repeat(restart_config or config))

    async def start() -> ChildProcess:
        return await ChildProcess.start(name, command, next(configs), pass_fds=pass_fds)

    return Slot(name, start, drains, patience, group)


async def end(child: ChildProcess, patience: float) -> None:
    """Wait `patience` seconds for a child's end, then cut its lifeline, then kill it."""
    if patience:
        await ended(child, patience)
    child.cut_lifeline()
    if not await ended(child, KILL_AFTER_SECONDS):
        child.send(signal.SIGKILL)
        await child.wait()


async def ended(child: ChildProcess, seconds: float) -> bool:
    """Wait so long for a child's end; whether it has come."""
    waiting = asyncio.ensure_future(child.wait())
    try:
        # not asyncio.wait_for, which before Python 3.12 drops a cancellation that comes together with the end: the
        # supervisor waited for a rolling restart that went on waiting for orders
        done, _ = await asyncio.wait({waiting}, timeout=seconds)
        return bool(done)
    finally:
        waiting.cancel()


async def cancel_all(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel the tasks and wait for their ends, whatever these are."""
    waiting = list(tasks)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
