"""The supervisor process: it starts the engines and the API processes, restarts what dies, and drains at the end.

Which processes there are may change meanwhile: `add` and `remove`. Those of one group, a model's engines, stand alone:
where they die again and again the others are left as they are, as long as there are any.

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
from collections.abc import Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from embedway.child_process import ChildFailed, ChildProcess, describe_exit
from embedway.engine.rolling_restart import RollingRestart, by_group
from embedway.engine.slot import Slot, cancel_all, end
from embedway.errors import AddressInUse, StartupError

logger = logging.getLogger("embedway.supervisor")

LISTEN_BACKLOG = 2048
FIRST_BACKOFF_SECONDS = 0.1
LONGEST_BACKOFF_SECONDS = 5.0
STABLE_SECONDS = 60.0
"""A process that lived this long starts again with the first back-off."""
MAX_QUICK_DEATHS = 8
"""After so many deaths in a row, each before STABLE_SECONDS, it is given up: the model, or the server where no other is
left, for an orchestrator does better."""
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
    sockets: list[socket.socket]
    """Listening sockets, closed here once the drain begins"""
    drain_timeout: float
    on_word: Callable[[ChildProcess, str], object] = lambda *_: None
    """Called with each word that a child says"""
    on_given_up: Callable[[str, str], object] = lambda *_: None
    """Called with a group that died again and again, and with how"""
    rolling: RollingRestart = field(init=False)
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _is_killed: bool = False
    _watchers: dict[Slot, asyncio.Task[None]] = field(default_factory=dict)
    _given_up: set[str] = field(default_factory=set)
    _jobs: set[asyncio.Task[None]] = field(default_factory=set)
    _broken: asyncio.Future[None] = field(init=False)
    """Ends in the error that ends the server"""

    def __post_init__(self) -> None:
        self.rolling = RollingRestart(self._engines, self.drain_timeout)

    async def run(self, on_ready: Callable[[dict[str, str]], object]) -> int:
        """`on_ready` gets the first process's facts once all are ready."""
        loop = asyncio.get_running_loop()
        self._broken = loop.create_future()
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signal_number, self._on_signal, signal_number)
        stopping = asyncio.create_task(self._stop.wait())
        loop.add_signal_handler(signal.SIGHUP, self.rolling.ask)
        try:
            if not await self._start_all(stopping):
                return 0
            on_ready(self.slots[0].facts)
            self.spawn(self.rolling.run())
            for slot in self.slots:
                self._watch(slot)
            await asyncio.wait({stopping, self._broken}, return_when=asyncio.FIRST_COMPLETED)
            if self._broken.done():
                self._broken.result()
        except CrashLoop as error:
            logger.critical("%s: giving up", error)
            return CRASH_LOOP_EXIT_STATUS
        finally:
            stopping.cancel()
            self._broken.cancel()
            await cancel_all(self._jobs)
            await self._shut_down()
        return KILLED_EXIT_STATUS if self._is_killed else 0

    def spawn(self, job: Coroutine[None, None, None]) -> None:
        """Run it beside all else; it is cancelled as the end begins. What it raises is logged."""
        task = asyncio.create_task(job)
        self._jobs.add(task)
        task.add_done_callback(self._on_job_done)

    async def add(self, slots: Sequence[Slot]) -> None:
        """Start the processes of a group, and keep them alive.

        Raises StartupError or ChildFailed where one does not start; then none of them is left.
        """
        self.slots.extend(slot for slot in slots if slot not in self.slots)
        try:
            await start_together(slots)
        except BaseException:
            await self.remove(slots)
            raise
        for slot in slots:
            self._given_up.discard(slot.group)
            self._watch(slot)

    async def remove(self, slots: Sequence[Slot]) -> None:
        """End these processes, at once, and keep them alive no longer. One that is being replaced is so first."""
        await cancel_all(self._watchers.pop(slot) for slot in slots if slot in self._watchers)
        await asyncio.gather(*map(vacate, slots))
        self.slots[:] = [slot for slot in self.slots if slot not in slots]

    def _engines(self) -> list[Slot]:
        return [slot for slot in self.slots if not slot.drains and slot.group not in self._given_up]

    def _on_job_done(self, job: asyncio.Task[None]) -> None:
        self._jobs.discard(job)
        if not job.cancelled() and (error := job.exception()) is not None:
            logger.error("a job of the supervisor's failed", exc_info=error)

    def _break(self, error: BaseException) -> None:
        if not self._broken.done():
            self._broken.set_exception(error)

    def _watch(self, slot: Slot) -> None:
        watcher = asyncio.create_task(self._keep_alive(slot))
        self._watchers[slot] = watcher
        watcher.add_done_callback(functools.partial(self._on_watched, slot))

    def _on_watched(self, slot: Slot, watcher: asyncio.Task[None]) -> None:
        if watcher.cancelled() or (error := watcher.exception()) is None:
            return
        others = [other for other in self._engines() if other.group != slot.group]
        if not isinstance(error, CrashLoop) or slot.drains or not others:
            self._break(error)
        elif slot.group not in self._given_up:  # another of its engines may have ended so, too
            logger.critical("%s: giving up %s; the other models are served", error, slot.group)
            self._given_up.add(slot.group)
            self.spawn(self._give_up(slot.group, str(error)))

    async def _give_up(self, group: str, problem: str) -> None:
        await self.remove([slot for slot in self.slots if slot.group == group and not slot.drains])
        self.on_given_up(group, problem)

    def _on_signal(self, signal_number: signal.Signals) -> None:
        if self._stop.is_set() and signal_number == signal.SIGINT:  # Ctrl-C while it drains: at once
            self._is_killed = True
            for slot in self.slots:
                if slot.child is not None:
                    slot.child.send(signal.SIGKILL)
        self._stop.set()

    async def _start_all(self, stopping: asyncio.Task[bool]) -> bool:
        """Start every process and wait until all are ready; False where a signal came first.

        One model after the other: what an engine measures as it starts should be the machine, not the others.
        """

        async def start_engines() -> None:
            groups = by_group(self._engines())
            for group, slots in groups.items():
                with contextlib.nullcontext() if len(groups) == 1 else blamed_on(group):
                    await start_together(slots)

        draining = [slot for slot in self.slots if slot.drains]
        tasks = [asyncio.create_task(start_engines()), asyncio.create_task(start_together(draining))]
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
            status = await slot.end_of(child, functools.partial(self.on_word, child))
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
            slot.on_ready(slot.child)
        except (StartupError, ChildFailed) as error:
            logger.error("%s does not start: %s", slot.name, error)

    async def _shut_down(self) -> None:
        """Stop accepting, let the draining processes finish, then let the others go.

        The others are kept alive until then: a request that is being finished may need a new engine.
        """
        for listening in self.sockets:
            listening.close()
        await cancel_all(watcher for slot, watcher in self._watchers.items() if slot.drains)
        draining = [slot.child for slot in self.slots if slot.drains and slot.child is not None]
        for child in draining:
            child.send(signal.SIGTERM)
        await asyncio.gather(*(end(child, self.drain_timeout + DRAIN_GRACE_SECONDS) for child in draining))
        await cancel_all(self._watchers.values())
        others = [slot.child for slot in self.slots if not slot.drains and slot.child is not None]
        await asyncio.gather(*(end(child, 0) for child in others))


async def start_together(slots: Sequence[Slot]) -> None:
    """Start all, and wait until they are ready. Raises StartupError or ChildFailed."""

    async def start(slot: Slot) -> None:
        slot.child = await slot.start()
        slot.facts = await slot.until_ready(slot.child)
        slot.on_ready(slot.child)

    tasks = [asyncio.create_task(start(slot)) for slot in slots]
    try:
        await asyncio.gather(*tasks)
    finally:
        await cancel_all(tasks)


async def vacate(slot: Slot) -> None:
    """End the slot's process, if there is one."""
    async with slot.changing:
        if slot.child is not None:
            await end(slot.child, 0)
            if slot.on_death is not None:
                slot.on_death(slot.child.pid)
        slot.child, slot.quick_deaths = None, 0


@contextlib.contextmanager
def blamed_on(group: str) -> Generator[None]:
    """Say which of several models does not start."""
    try:
        yield
    except StartupError as error:
        raise StartupError(message=f"{group}: {error.message}") from error
    except ChildFailed as error:
        raise ChildFailed(f"{group}: {error}") from error


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
