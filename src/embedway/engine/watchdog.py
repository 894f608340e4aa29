"""The supervisor's end of what a child says: one that has been silent for too long hangs, and is killed."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine
from typing import TypeVar

from embedway.child_process import ChildFailed, ChildProcess

logger = logging.getLogger("embedway.supervisor")

HeardT = TypeVar("HeardT")

LISTEN_SECONDS = 0.5


async def listen_to(child: ChildProcess, patience: float, on_word: Callable[[str], object]) -> None:
    """Return once a child that is ready has ended, or has been killed because it did not beat for `patience` seconds.

    `on_word` is called with each word that it says.
    """
    try:
        while (words := await heard(child.words, patience)) is not None:
            for word in words:
                on_word(word)
    except asyncio.TimeoutError:
        logger.error("%s hangs: no progress for %g s, so it is killed (--watchdog-timeout)", child.name, patience)
        child.was_hanging = True
        child.send(signal.SIGKILL)


async def until_ready(child: ChildProcess, patience: float) -> dict[str, str]:
    """Return the facts of a child that has become ready.

    Raises StartupError with its sentence, or ChildFailed where it just ended, or said nothing for `patience` seconds:
    then it is killed.
    """
    try:
        while (facts := await heard(child.ready, patience)) is None:
            pass
    except asyncio.TimeoutError as error:
        child.send(signal.SIGKILL)
        problem = f"{child.name} was not ready within {patience:g} s (--startup-timeout) and was killed"
        raise ChildFailed(problem) from error
    return facts


async def heard(hear: Callable[[], Coroutine[None, None, HeardT]], patience: float) -> HeardT:
    """What `hear` brings. Raises asyncio.TimeoutError once this process has listened for `patience` seconds in vain.

    Silence is counted in pieces that this process has listened itself: one that was paused, alone or with its
    children, must not kill them when it wakes.
    """
    hearing = asyncio.ensure_future(hear())
    listened_seconds = 0.0
    try:
        # not asyncio.wait_for, which may drop a cancellation (before Python 3.12), and the end with it
        while not hearing.done() and listened_seconds < patience:
            await asyncio.wait({hearing}, timeout=LISTEN_SECONDS)
            listened_seconds += LISTEN_SECONDS
        if not hearing.done():
            raise asyncio.TimeoutError
        return hearing.result()
    finally:
        hearing.cancel()
