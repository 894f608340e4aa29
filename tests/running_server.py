"""A real server in processes of its own, on a free port of the loopback address."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping

import psutil

READY = re.compile(r"is ready at (https?://\S+)")


class RunningServer:
    """`embedway serve ARGUMENTS --port 0`; made once it is ready. Raises RuntimeError with its output where it ends.

    As a context manager it is told to end at the end, and must then end well.
    """

    def __init__(self, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self.log: deque[str] = deque(maxlen=2000)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "embedway", "serve", "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "500", **(environment or {})},
        )
        self.url: str = ""
        self._is_ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._is_ready.wait(120)
        if self.process.poll() is not None or not READY.search("".join(self.log)):
            self.stop()
            raise RuntimeError("the server did not start:\n" + "".join(self.log))

    def __enter__(self) -> RunningServer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        status = self.stop()
        assert status == 0 or exc_info[0], "".join(self.log)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.log.append(line)
            if match := READY.search(line):
                self.url = match.group(1)
            if "curl " in line:  # the banner's last line
                self._is_ready.set()
        self._is_ready.set()

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def children(self, module: str) -> list[psutil.Process]:
        """Its processes that run `python -m MODULE`."""
        processes = psutil.Process(self.process.pid).children(recursive=True)
        return [process for process in processes if module in process.cmdline()]

    def resident_bytes(self) -> int:
        """Memory of all its processes."""
        root = psutil.Process(self.process.pid)
        return sum(process.memory_info().rss for process in [root, *root.children(recursive=True)])

    def stop(self, timeout: float = 60) -> int:
        """SIGTERM; return the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        finally:
            self.process.kill()
            self._reader.join(5)
            if self.process.stdout is not None:
                self.process.stdout.close()
