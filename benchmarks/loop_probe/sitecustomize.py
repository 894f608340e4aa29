"""Python imports this by itself where its folder is on PYTHONPATH: how long events wait for an API process's loop.

The benchmark sends a datagram with the time to the socket LOOP_PROBE every half millisecond. The loop reads it when it
comes to it, and keeps the longest wait in the file LOOP_PROBE.out. Where it is allowed, the server's processes run
before all other programs, so that these do not count. `hold` is a wait, but at most the CPU time that all threads had.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Coroutine
from typing import Any

RESULT = struct.Struct("<ddd")
"""Longest wait, hold and turn of the loop's thread, in seconds; whoever reads them writes zeros"""


def take_real_time(priority: int, *, with_children: bool = False) -> None:
    """Put the calling thread before all other programs, where that is allowed, and perhaps what it starts."""
    with contextlib.suppress(PermissionError, AttributeError):
        policy = os.SCHED_FIFO | (0 if with_children else os.SCHED_RESET_ON_FORK)
        os.sched_setscheduler(0, policy, os.sched_param(priority))


class RealTimeThread(threading.Thread):
    def run(self) -> None:
        take_real_time(2)
        super().run()


class Probe:
    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(path)
        self._socket.setblocking(False)
        with open(path + ".out", "r+b") as file:  # noqa: PTH123 - nothing more is imported than has to be
            self._result = mmap.mmap(file.fileno(), RESULT.size)
        self._cpu, self._own = time.process_time(), time.thread_time()

    def start(self) -> None:
        if switch := os.environ.get("LOOP_PROBE_SWITCH"):
            sys.setswitchinterval(float(switch))
        asyncio.get_running_loop().add_reader(self._socket, self.read)

    def close(self) -> None:
        self._socket.close()
        self._result.close()

    def read(self) -> None:
        wait = time.monotonic() - struct.unpack("<d", self._socket.recv(8))[0]
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(8)
        cpu, own = time.process_time(), time.thread_time()
        figures = wait, min(wait, cpu - self._cpu), min(wait, own - self._own)
        self._cpu, self._own = cpu, own
        RESULT.pack_into(self._result, 0, *map(max, figures, RESULT.unpack_from(self._result)))


if "LOOP_PROBE" in os.environ and "embedway.engine.loop" in sys.orig_argv:
    take_real_time(1, with_children=True)
if "LOOP_PROBE" in os.environ and "embedway.api.server" in sys.orig_argv:
    import uvloop

    run = uvloop.run

    def run_probed(main: Coroutine[Any, Any, Any]) -> Any:
        async def probed() -> Any:
            take_real_time(3)
            setattr(threading, "Thread", RealTimeThread)  # noqa: B010
            Probe(os.environ["LOOP_PROBE"]).start()
            return await main

        return run(probed())

    setattr(uvloop, "run", run_probed)  # noqa: B010 - a checker sees that it is another function
