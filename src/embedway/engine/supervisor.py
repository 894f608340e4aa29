"""The supervisor process: it starts the engines and the API processes, restarts what dies, and drains at the end.

It holds the listening socket, so a port in use is found before anything is loaded, and no restart of a process closes
the port.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from embedway.child_process import ChildProcess, describe_exit
from embedway.errors import AddressInUse

if TYPE_CHECKING:
    import msgspec

logger = logging.getLogger("embedway.supervisor")

LISTEN_BACKLOG = 2048
FIRST_BACKOFF_SECONDS = 0.1
LONGEST_BACKOFF_SECONDS = 5.0
STABLE_SECONDS = 60.0
"""A process that lived this long starts again with the first back-off."""
MAX_QUICK_DEATHS = 8
"""So many deaths in a row, each before STABLE_SECONDS, end the server: an orchestrator does better."""
CRASH_LOOP_EXIT_STATUS = 3

StartChild: TypeAlias = Callable[[], Awaitable[ChildProcess]]


@dataclass(slots=True, eq=False)
class Slot:
    """A process that there has to be: the one that is there now, and how often it died."""

    name: str
    start: StartChild
    drains: bool
    """True: it is asked to finish its work (SIGTERM) before it has to go."""
    child: ChildProcess | None = None
    quick_deaths: int = 0
    facts: dict[str, str] = field(default_factory=dict)
    """What the process said of itself when it was first ready"""


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

    async def run(self, on_ready: Callable[[dict[str, str]], object]) -> int:
        """`on_ready` gets the first process's facts once all are ready."""
        loop = asyncio.get_running_loop()
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signal_number, self._on_signal)
        try:
            stopping = asyncio.create_task(self._stop.wait())
            starting = asyncio.create_task(self._start_all())
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                starting.cancel()
                return 0
            await starting
            on_ready(self.slots[0].facts)
            return await self._watch(stopping)
        finally:
            await self._shut_down()

    def _on_signal(self) -> None:
        if self._stop.is_set():  # the second Ctrl-C: at once
            for slot in self.slots:
                if slot.child is not None:
                    slot.child.send(signal.SIGKILL)
        self._stop.set()

    async def _start_all(self) -> None:
        """Start every process, all at the same time; wait until all are ready."""

        async def start(slot: Slot) -> None:
            slot.child = await slot.start()
            slot.facts = await slot.child.ready()

        tasks = [asyncio.create_task(start(slot)) for slot in self.slots]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self, stopping: asyncio.Task[bool]) -> int:
        """Keep every process there until a signal, or until one dies too often."""
        watchers = [asyncio.create_task(self._keep_alive(slot)) for slot in self.slots]
        try:
            done, _ = await asyncio.wait({stopping, *watchers}, return_when=asyncio.FIRST_COMPLETED)
            for watcher in done & set(watchers):
                watcher.result()
            return 0
        except CrashLoop as error:
            logger.critical("%s: giving up", error)
            return CRASH_LOOP_EXIT_STATUS
        finally:
            for watcher in watchers:
                watcher.cancel()
            await asyncio.gather(*watchers, return_exceptions=True)

    async def _keep_alive(self, slot: Slot) -> None:
        while True:
            assert slot.child is not None
            started_at = time.monotonic()
            status = await slot.child.wait()
            lived = time.monotonic() - started_at
            slot.quick_deaths = 1 if lived > STABLE_SECONDS else slot.quick_deaths + 1
            if slot.quick_deaths > MAX_QUICK_DEATHS:
                raise CrashLoop(f"{describe_exit(slot.name, status)}, the {slot.quick_deaths}th time in a row")
            backoff = min(FIRST_BACKOFF_SECONDS * 2 ** (slot.quick_deaths - 1), LONGEST_BACKOFF_SECONDS)
            logger.error("%s: restarting it in %.1f s", describe_exit(slot.name, status), backoff)
            await asyncio.sleep(backoff)
            slot.child = await slot.start()

    async def _shut_down(self) -> None:
        """Stop accepting, let the API processes finish, then let the engines go."""
        for listening in self.sockets:
            listening.close()
        for slot in reversed(self.slots):
            if slot.child is not None and slot.drains:
                slot.child.send(signal.SIGTERM)
        for slot in reversed(self.slots):
            if slot.child is not None:
                await self._end(slot.child, patient=slot.drains)

    async def _end(self, child: ChildProcess, *, patient: bool) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            if patient:
                await asyncio.wait_for(child.wait(), self.drain_timeout + 2)
        child.cut_lifeline()
        try:
            await asyncio.wait_for(child.wait(), 5)
        except asyncio.TimeoutError:
            child.send(signal.SIGKILL)
            await child.wait()


def child_slot(
    name: str,
    module: str,
    config: msgspec.Struct,
    *,
    drains: bool = False,
    pass_fds: Sequence[int] = (),
    environment: dict[str, str] | None = None,
) -> Slot:
    """A slot for `python -m MODULE`."""
    command = [sys.executable, "-m", module]

    async def start() -> ChildProcess:
        return await ChildProcess.start(name, command, config, pass_fds=pass_fds, environment=environment)

    return Slot(name, start, drains)


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
    except OSError as error:
        raise AddressInUse(host=host, port=port, problem=error.strerror or error) from error
    listening.set_inheritable(True)
    return listening


@contextlib.contextmanager
def runtime_folder() -> Generator[Path]:
    """A folder of mode 0700 for the sockets between the processes, removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="embedway-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
