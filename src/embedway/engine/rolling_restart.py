"""Engines replaced one by one, each by one that is ready, so that no request is lost and hardly one waits."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Iterable

from embedway.child_process import RETIRE, ChildFailed, ChildProcess
from embedway.engine.memory_room import has_room_for_another
from embedway.engine.slot import Slot, end
from embedway.errors import StartupError

logger = logging.getLogger("embedway.supervisor")


class RollingRestart:
    """Restarts the engines whenever it is asked to, from the moment that `run` is."""

    def __init__(self, slots: Iterable[Slot], patience: float) -> None:
        self._slots = list(slots)
        self._patience = patience
        self._is_wanted = asyncio.Event()
        self._is_running = False

    def ask(self) -> None:
        """Have the engines restarted; where they are being restarted, once more after that."""
        self._is_wanted.set()

    def begin(self) -> bool:
        """The same, but False where they are being restarted, or will be, already."""
        if self._is_running or self._is_wanted.is_set():
            return False
        self.ask()
        return True

    async def run(self) -> None:
        """Do so until cancelled."""
        self._is_wanted.clear()  # those who asked during the start have it
        while await self._is_wanted.wait():
            self._is_wanted.clear()
            self._is_running = True
            try:
                await restart_one_by_one(self._slots, self._patience)
            finally:
                self._is_running = False


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
        assert old is not None
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
