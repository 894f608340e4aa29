"""The supervisor process: it starts the engines and the API processes, restarts what dies, and drains at the end.

It holds the listening socket, so a port in use is found before anything is loaded, and no restart of a process closes
the port.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path

from embedway.child_process import (
    RESTART_BEGUN,
    RESTART_ENGINES,
    RESTART_RUNS,
    ChildFailed,
    ChildProcess,
    describe_exit,
)
from embedway.engine.rolling_restart import RollingRestart
from embedway.engine.slot import Slot, cancel_all, end
from embedway.errors import AddressInUse, StartupError

logger = logging.getLogger("embedway.supervisor")

LISTEN_BACKLOG = 2048
FIRST_BACKOFF_SECONDS = 0.1
LONGEST_BACKOFF_SECONDS = 5.0
STABLE_SECONDS = 60.0
"""A process that lived this long starts again with the first back-off."""
MAX_QUICK_DEATHS = 8
"""So many deaths in a row, each before STABLE_SECONDS, end the server: an orchestrator does better."""
CRASH_LOOP_EXIT_STATUS = 3
KILLED_EXIT_STATUS = 130
"""After a Ctrl-C during the drain: what was running is lost."""
DRAIN_GRACE_SECONDS = 5
"""For a process to send its last errors after the drain timeout"""
SHORT_FOLDER = "/tmp"  # noqa: S108 - the path of a socket may have about a hundred characters


class CrashLoop(Exception):
    """A process dies again and again."""


@dataclass(slots=True, eq=False)
class Supervisor:
    """Runs a set of processes. `run` returns the program's exit status.

    Raises StartupError where a child says that it cannot start, ChildFailed where one dies before it was ever ready.
    """

    slots: list[Slot]
    """The engines first: processes are stopped in the reverse order."""
    sockets: list[socket.socket]
    """Listening sockets, closed here once the drain begins"""
    drain_timeout: float
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _is_killed: bool = False
    _rolling: RollingRestart = field(init=False)

    def __post_init__(self) -> None:
        self._rolling = RollingRestart([slot for slot in self.slots if not slot.drains], self.drain_timeout)

    async def run(self, on_ready: Callable[[dict[str, str]], object]) -> int:
        """`on_ready` gets the first process's facts once all are ready."""
        loop = asyncio.get_running_loop()
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signal_number, self._on_signal, signal_number)
        stopping = asyncio.create_task(self._stop.wait())
        loop.add_signal_handler(signal.SIGHUP, self._rolling.ask)
        watchers: dict[asyncio.Task[None], Slot] = {}
        restarting: list[asyncio.Task[None]] = []
        try:
            if not await self._start_all(stopping):
                return 0
            on_ready(self.slots[0].facts)
            restarting = [asyncio.create_task(self._rolling.run())]
            watchers = {asyncio.create_task(self._keep_alive(slot)): slot for slot in self.slots}
            done, _ = await asyncio.wait({stopping, *watchers}, return_when=asyncio.FIRST_COMPLETED)
            for watcher in done & watchers.keys():
                watcher.result()
        except CrashLoop as error:
            logger.critical("%s: giving up", error)
            return CRASH_LOOP_EXIT_STATUS
        finally:
            stopping.cancel()
            await cancel_all(restarting)
            await self._shut_down(watchers)
        return KILLED_EXIT_STATUS if self._is_killed else 0

    def _on_signal(self, signal_number: signal.Signals) -> None:
        if self._stop.is_set() and signal_number == signal.SIGINT:  # Ctrl-C while it drains: at once
            self._is_killed = True
            for slot in self.slots:
                if slot.child is not None:
                    slot.child.send(signal.SIGKILL)
        self._stop.set()

    def _on_word(self, child: ChildProcess, word: str) -> None:
        """A child wants something."""
        if word == RESTART_ENGINES:
            child.tell(RESTART_BEGUN if self._rolling.begin() else RESTART_RUNS)

    async def _start_all(self, stopping: asyncio.Task[bool]) -> bool:
        """Start every process, all at the same time, and wait until all are ready; False where a signal came first."""

        async def start(slot: Slot) -> None:
            slot.child = await slot.start()
            slot.facts = await slot.until_ready(slot.child)

        tasks = [asyncio.create_task(start(slot)) for slot in self.slots]
        starting = asyncio.gather(*tasks)
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                return False
            starting.result()
            return True
        finally:
            await cancel_all(tasks)

    async def _keep_alive(self, slot: Slot) -> None:
        """Start the slot's process anew whenever it ends. Raises CrashLoop where it ends too often."""
        started_at = time.monotonic()
        while True:
            assert slot.child is not None
            child = slot.child
            status = await slot.end_of(child, functools.partial(self._on_word, child))
            if slot.on_death is not None:
                slot.on_death(child.pid)
            async with slot.changing:
                if slot.child is child:
                    slot.on_restart(slot.name, "hang" if child.was_hanging else "signal" if status < 0 else "exit")
                    await self._restart(slot, status, time.monotonic() - started_at)
            started_at = time.monotonic()

    async def _restart(self, slot: Slot, status: int, lived: float) -> None:
        """Start a process anew that has died of itself, after a back-off."""
        slot.quick_deaths = 1 if lived > STABLE_SECONDS else slot.quick_deaths + 1
        if slot.quick_deaths > MAX_QUICK_DEATHS:
            raise CrashLoop(f"{describe_exit(slot.name, status)}, the {slot.quick_deaths}th time in a row")
        backoff = min(FIRST_BACKOFF_SECONDS * 2 ** (slot.quick_deaths - 1), LONGEST_BACKOFF_SECONDS)
        logger.error("%s: restarting it in %.1f s", describe_exit(slot.name, status), backoff)
        await asyncio.sleep(backoff)
        try:
            slot.child = await slot.start()
            await slot.until_ready(slot.child)
        except (StartupError, ChildFailed) as error:
            logger.error("%s does not start: %s", slot.name, error)

    async def _shut_down(self, watchers: dict[asyncio.Task[None], Slot]) -> None:
        """Stop accepting, let the draining processes finish, then let the others go.

        The others are kept alive until then: a request that is being finished may need a new engine.
        """
        for listening in self.sockets:
            listening.close()
        await cancel_all(watcher for watcher, slot in watchers.items() if slot.drains)
        draining = [slot.child for slot in self.slots if slot.drains and slot.child is not None]
        for child in draining:
            child.send(signal.SIGTERM)
        await asyncio.gather(*(end(child, self.drain_timeout + DRAIN_GRACE_SECONDS) for child in draining))
        await cancel_all(watchers)
        others = [slot.child for slot in self.slots if not slot.drains and slot.child is not None]
        await asyncio.gather(*(end(child, 0) for child in others))


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, inheritable. Raises AddressInUse."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(LISTEN_BACKLOG)
        except OSError:
            listening.close()
            raise
    except (OSError, UnicodeError) as error:
        raise AddressInUse(host=host, port=port, problem=getattr(error, "strerror", None) or error) from error
    listening.set_inheritable(True)
    return listening


@contextlib.contextmanager
def runtime_folder() -> Generator[Path]:
    """A folder of mode 0700 for the sockets between the processes, removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="embedway-", dir=SHORT_FOLDER if len(tempfile.gettempdir()) > 60 else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
