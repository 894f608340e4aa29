"""Engines replaced one by one, each by one that is ready, so that no request is lost and hardly one waits."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Iterable

from embedway.child_process import RETIRE, ChildFailed, ChildProcess
from embedway.engine.memory_room import has_room_for_another
from embedway.engine.slot import Slot, end
from embedway.errors import StartupError

logger = logging.getLogger("embedway.supervisor")


class RollingRestart:
    """Restarts the engines of a model, or of all, whenever it is asked to, from the moment that `run` is."""

    def __init__(self, slots: Callable[[], Iterable[Slot]], patience: float) -> None:
        """`slots` tells those of all engines that there are to be."""
        self._slots = slots
        self._patience = patience
        self._wanted: set[str | None] = set()
        """Slots' groups; None: all of them"""
        self._is_wanted = asyncio.Event()
        self._is_running = False

    def ask(self, group: str | None = None) -> None:
        """Have the engines of a group restarted, or all; where some are being restarted, after that."""
        self._wanted.add(group)
        self._is_wanted.set()

    def begin(self, group: str | None = None) -> bool:
        """The same, but False where engines are being restarted, or will be, already."""
        if self._is_running or self._is_wanted.is_set():
            return False
        self.ask(group)
        return True

    async def run(self) -> None:
        """Do so until cancelled."""
        self._is_wanted.clear()  # those who asked during the start have it
        self._wanted.clear()
        while await self._is_wanted.wait():
            self._is_wanted.clear()
            wanted, self._wanted = self._wanted, set()
            self._is_running = True
            try:
                for group, slots in by_group(self._slots()).items():
                    if group in wanted or None in wanted:
                        await restart_one_by_one(slots, self._patience)
            finally:
                self._is_running = False


def by_group(slots: Iterable[Slot]) -> dict[str, list[Slot]]:
    groups: dict[str, list[Slot]] = {}
    for slot in slots:
        groups.setdefault(slot.group, []).append(slot)
    return groups


async def restart_one_by_one(slots: Iterable[Slot], patience: float) -> None:
    """Give each slot a new engine; the old one has `patience` seconds to finish what it was given.

    A successor that does not start ends it, and what is there stays.
    """
    for slot in slots:
        try:
            await replace(slot, patience)
        except (StartupError, ChildFailed) as error:
            logger.error("the rolling restart ends here: %s does not start anew: %s", slot.name, error)
            return
        logger.info("%s was restarted", slot.name)


async def replace(slot: Slot, patience: float) -> None:
    """Raises StartupError or ChildFailed where the successor does not start."""
    async with slot.changing:
        old = slot.child
        if old is None:  # its model was unloaded meanwhile
            return
        # A GPU's memory cannot be asked for from here, and a second model that fills it would fail the first.
        if slot.facts.get("device", "cpu").startswith("cuda") or not has_room_for_another(old.pid):
            await end(old, 0)  # the clients send what it had to its successor
            slot.child = await slot.start()
            await slot.until_ready(slot.child)
        else:
            slot.child = await started(slot)
            await retire(old, patience)
        slot.quick_deaths = 0  # this one has not died yet
        slot.on_restart(slot.name, "rolling")


async def started(slot: Slot) -> ChildProcess:
    """A successor that is ready; none is left behind where it does not become so."""
    successor = await slot.start()
    try:
        await slot.until_ready(successor)
    except BaseException:
        successor.send(signal.SIGKILL)
        await successor.wait()
        raise
    return successor


async def retire(old: ChildProcess, patience: float) -> None:
    old.tell(RETIRE)
    try:
        await end(old, patience)
    except asyncio.CancelledError:
        await end(old, 0)
        raise
