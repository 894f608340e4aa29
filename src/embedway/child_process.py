"""How the supervisor and its child processes talk: one line down, one line up, heartbeats, words, and a lifeline.

The parent writes one line of JSON, the configuration, to the child's stdin and keeps it open; the child writes one
line of JSON to its stdout when it is ready, or says why it cannot be. An empty line up is a heartbeat, every
BEAT_SECONDS: of an engine from when it is ready (`engine/heart.py`), of an API process from its start. After
that each line either way is one of the words below.
When stdin ends, the parent is gone (or wants the child to end): nothing outlives the supervisor, even one that was
killed. Logs go to stderr.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from embedway.errors import StartupError

ConfigT = TypeVar("ConfigT")

BEAT_SECONDS = 0.5

RETIRE = "retire"
"""Down, to an engine: it has a successor"""


class Announcement(msgspec.Struct, omit_defaults=True):
    """A child's one line on stdout."""

    error: str | None = None
    """Why it cannot start, in one sentence; None: it is ready."""
    facts: dict[str, str] = {}
    """What the operator may want to know of a process that is ready."""


# ── the child's side ──────────────────────────────────────────────────────────────────────────────────────────────────


class ParentLink:
    """The child's end. Made once, first thing in `main`."""

    def __init__(self) -> None:
        # Libraries may print: keep the real stdout for the announcement and send theirs to the log.
        self._stdout = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)
        self._on_word: Callable[[str], object] | None = None
        self.is_announced = False
        """Whether the parent knows that this process is ready: before, it listens to beats only"""
        os.set_blocking(self._stdout.fileno(), False)  # a parent that does not read must not stop the one that beats

    def read_config(self, kind: type[ConfigT]) -> ConfigT:
        return msgspec.json.decode(sys.stdin.buffer.readline(), type=kind)

    def beat(self) -> None:
        """Tell the parent that this process makes progress."""
        self.tell("")

    def tell(self, word: str) -> bool:
        """A word that goes up, once `announce_ready` was called. False where the parent does not read."""
        try:
            return self._stdout.write(word.encode() + b"\n") is not None  # all of it, or None where the pipe is full
        except BrokenPipeError:
            return False

    def announce_ready(self, facts: dict[str, str] | None = None) -> None:
        self._announce(Announcement(facts=facts or {}))
        self.is_announced = True

    def fail(self, error: StartupError) -> None:
        """Tell the parent why this process cannot start, and end it with the error's exit status."""
        self._announce(Announcement(error=error.message))
        sys.exit(error.exit_status)

    def on_parent_gone(self, act: Callable[[], object]) -> None:
        """Call `act` on a thread of its own once the parent has closed the lifeline."""

        def wait() -> None:
            rest = b""
            while piece := os.read(0, 4096):
                *words, rest = (rest + piece).split(b"\n")
                for word in words:
                    if self._on_word is not None:
                        self._on_word(word.decode())
            act()

        threading.Thread(target=wait, name="lifeline", daemon=True).start()

    def on_word(self, act: Callable[[str], object]) -> None:
        """Have `on_parent_gone`'s thread call `act` with each word that comes down."""
        self._on_word = act

    def _announce(self, announcement: Announcement) -> None:
        with contextlib.suppress(BrokenPipeError):  # a parent that is gone needs no word
            self._stdout.write(msgspec.json.encode(announcement) + b"\n")


# ── the parent's side ─────────────────────────────────────────────────────────────────────────────────────────────────


class ChildFailed(Exception):
    """A child ended before it was ready, without a word, or had to be ended."""


class ChildProcess:
    """The parent's end: one started child."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self._process = process
        self._rest = b""
        """The beginning of a word whose end has not come"""
        self.was_hanging = False
        """Written by the watchdog as it kills it"""

    @classmethod
    async def start(
        cls,
        name: str,
        command: Sequence[str],
        config: msgspec.Struct,
        *,
        pass_fds: Sequence[int] = (),
    ) -> ChildProcess:
        """Raises ChildFailed where the system has no room for it."""
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                pass_fds=pass_fds,
                start_new_session=True,  # Ctrl-C in the terminal is for the supervisor, who then drains
            )
        except OSError as error:  # no memory or number for another process, as when processes die for that
            raise ChildFailed(f"{name} cannot be started: {error.strerror or error}") from error
        assert process.stdin is not None
        with contextlib.suppress(ConnectionError):  # a child that ended already: `ready` tells
            process.stdin.write(msgspec.json.encode(config) + b"\n")
            await process.stdin.drain()
        return cls(name, process)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ready(self) -> dict[str, str] | None:
        """Wait for the child's announcement and return its facts; None: it has beaten, and has to be waited for anew.

        Raises StartupError with the child's sentence, or ChildFailed if it just ended.
        """
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise ChildFailed(describe_exit(self.name, await self._process.wait()))
        if not line.startswith(b"{"):
            return None
        announcement = msgspec.json.decode(line, type=Announcement)
        if announcement.error is not None:
            raise StartupError(message=announcement.error)
        return announcement.facts

    async def words(self) -> list[str] | None:
        """Wait for a sign of life of a child that is ready; return the words that came with it; None where it ended."""
        assert self._process.stdout is not None
        piece = await self._process.stdout.read(4096)
        *lines, self._rest = (self._rest + piece).split(b"\n")
        return [line.decode() for line in lines if line] if piece else None

    async def wait(self) -> int:
        """Wait for the child's end; return its exit status (negative: the signal that ended it)."""
        return await self._process.wait()

    def tell(self, word: str) -> None:
        """A word that goes down, to a child that is ready."""
        assert self._process.stdin is not None
        self._process.stdin.write(word.encode() + b"\n")

    def cut_lifeline(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def send(self, signal_number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal_number)


def describe_exit(name: str, status: int) -> str:
    """A child's end in words."""
    if status >= 0:
        return f"{name} ended with status {status}"
    with contextlib.suppress(ValueError):
        hint = " (out of memory?)" if status == -signal.SIGKILL else ""
        return f"{name} was ended by {signal.Signals(-status).name}{hint}"
    return f"{name} was ended by signal {-status}"
