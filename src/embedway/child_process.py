"""How the supervisor and its child processes talk: one line down, one line up, and a lifeline.

The parent writes one line of JSON, the configuration, to the child's stdin and keeps it open; the child writes one
line of JSON to its stdout when it is ready, or says why it cannot be.
When stdin ends, the parent is gone (or wants the child
to end): nothing outlives the supervisor, even one that was killed. Logs go to stderr.
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

    def read_config(self, kind: type[ConfigT]) -> ConfigT:
        return msgspec.json.decode(sys.stdin.buffer.readline(), type=kind)

    def announce_ready(self, facts: dict[str, str] | None = None) -> None:
        self._announce(Announcement(facts=facts or {}))

    def fail(self, error: StartupError) -> None:
        """Tell the parent why this process cannot start, and end it with the error's exit status."""
        self._announce(Announcement(error=error.message))
        sys.exit(error.exit_status)

    def on_parent_gone(self, act: Callable[[], object]) -> None:
        """Call `act` on a thread of its own once the parent has closed the lifeline."""

        def wait() -> None:
            while os.read(0, 4096):
                pass
            act()

        threading.Thread(target=wait, name="lifeline", daemon=True).start()

    def _announce(self, announcement: Announcement) -> None:
        with contextlib.suppress(BrokenPipeError):  # a parent that is gone needs no word
            self._stdout.write(msgspec.json.encode(announcement) + b"\n")


# ── the parent's side ─────────────────────────────────────────────────────────────────────────────────────────────────


class ChildFailed(Exception):
    """A child ended before it was ready, without a word."""


class ChildProcess:
    """The parent's end: one started child."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self._process = process

    @classmethod
    async def start(
        cls,
        name: str,
        command: Sequence[str],
        config: msgspec.Struct,
        *,
        pass_fds: Sequence[int] = (),
    ) -> ChildProcess:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=pass_fds,
            start_new_session=True,  # Ctrl-C in the terminal is for the supervisor, who then drains
        )
        assert process.stdin is not None
        with contextlib.suppress(ConnectionError):  # a child that ended already: `ready` tells
            process.stdin.write(msgspec.json.encode(config) + b"\n")
            await process.stdin.drain()
        return cls(name, process)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ready(self) -> dict[str, str]:
        """Wait for the child's announcement and return its facts.

        Raises StartupError with the child's sentence, or ChildFailed if it just ended.
        """
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise ChildFailed(describe_exit(self.name, await self._process.wait()))
        announcement = msgspec.json.decode(line, type=Announcement)
        if announcement.error is not None:
            raise StartupError(message=announcement.error)
        return announcement.facts

    async def wait(self) -> int:
        """Wait for the child's end; return its exit status (negative: the signal that ended it)."""
        return await self._process.wait()

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
