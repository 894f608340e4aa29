"""A contestant at work: started, asked, measured, ended. Servers and libraries look alike from outside."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import orjson
import psutil

from benchmarks.http_load import HOST, RequestFailed, bearer, post_once, run_load, write_request
from benchmarks.load_result import LoadResult
from benchmarks.peers import Library, Peer, Server
from benchmarks.workloads import Load

START_SECONDS = 300
POLL_SECONDS = 0.01
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DO_NOT_TRACK": "1"}


class PeerFailed(Exception):
    """A contestant that did not start, or ended by itself; holds the end of its log."""


class RunningPeer(Protocol):
    """Made once it has given its first vector."""

    seconds_to_first_answer: float
    """From the command on"""

    def run(self, load: Load) -> LoadResult: ...

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """float32 [n, dimension]"""
        ...

    @property
    def processes(self) -> ProcessTree: ...

    def stop(self) -> None: ...


def start_peer(peer: Peer, model: Path) -> RunningPeer:
    """Start a contestant with the model of a folder and wait for its first vector. Raises PeerFailed."""
    return RunningServer(peer, model) if isinstance(peer, Server) else RunningLibrary(peer, model)


class RunningServer:
    """Implements `RunningPeer`."""

    def __init__(self, server: Server, model: Path) -> None:
        self._path, self._key, self.port = server.path, server.key, free_port()
        self.processes = ProcessTree(server.command_line(model, self.port), server.variables)
        try:
            self._wait_for_first_answer()
        except BaseException:
            self.stop()
            raise
        self.seconds_to_first_answer = self.processes.age

    def _wait_for_first_answer(self) -> None:
        while self.processes.age < START_SECONDS:
            if self._answers():
                return
            self.processes.check()
            time.sleep(POLL_SECONDS)
        raise PeerFailed(f"no answer within {START_SECONDS} seconds:\n{self.processes.log_tail()}")

    def _answers(self) -> bool:
        try:
            post_once(self.port, write_request(self._path, ["hello"], bearer(self._key)))
        except (OSError, RequestFailed):  # nobody listens yet, or is ready yet
            return False
        return True

    def run(self, load: Load) -> LoadResult:
        requests = [
            write_request(self._path, [text.text for text in texts], bearer(self._key)) for texts in load.requests
        ]
        return run_load(self.port, requests, connections=load.connections, seconds=load.seconds)

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        answer = orjson.loads(post_once(self.port, write_request(self._path, texts, bearer(self._key))))
        rows = sorted(answer["data"], key=lambda row: row["index"])
        return np.stack([np.frombuffer(base64.b64decode(row["embedding"]), np.float32) for row in rows])

    def stop(self) -> None:
        self.processes.end()


class RunningLibrary:
    """Implements `RunningPeer` for loads of one list of texts after the other."""

    def __init__(self, library: Library, model: Path) -> None:
        self.processes = ProcessTree(library.command_line(model), {}, with_pipes=True)
        try:
            self._read_line()
        except BaseException:
            self.stop()
            raise
        self.seconds_to_first_answer = self.processes.age

    def run(self, load: Load) -> LoadResult:
        requests = [[text.text for text in texts] for texts in load.requests]
        answer = self._ask({"requests": requests, "seconds": load.seconds})
        return LoadResult(answer["seconds"], answer["latencies"])

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return np.array(self._ask({"texts": list(texts)}), dtype=np.float32)

    def stop(self) -> None:
        self.processes.end()

    def _ask(self, question: object) -> dict:
        stdin = self.processes.root.stdin
        assert stdin is not None
        stdin.write(json.dumps(question) + "\n")
        stdin.flush()
        return json.loads(self._read_line())

    def _read_line(self) -> str:
        stdout = self.processes.root.stdout
        assert stdout is not None
        line = stdout.readline()
        if not line:
            raise PeerFailed(f"it ended:\n{self.processes.log_tail()}")
        return line


class ProcessTree:
    """A command and all processes that it starts. Its output goes to a file that vanishes with it."""

    def __init__(self, command: Sequence[str], variables: Mapping[str, str], *, with_pipes: bool = False) -> None:
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed by `end`
        self._began = time.perf_counter()
        self.root = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if with_pipes else subprocess.DEVNULL,
            stdout=subprocess.PIPE if with_pipes else self._log,
            stderr=self._log,
            text=True,
            env={**os.environ, **OFFLINE, **variables},
            start_new_session=True,
        )

    @property
    def age(self) -> float:
        """Seconds since the command"""
        return time.perf_counter() - self._began

    def check(self) -> None:
        """Raises PeerFailed if the command has ended."""
        if self.root.poll() is not None:
            raise PeerFailed(f"it ended with status {self.root.returncode}:\n{self.log_tail()}")

    def log_tail(self) -> str:
        self._log.seek(0)
        return "".join(self._log.readlines()[-15:])

    def all(self) -> list[psutil.Process]:
        root = psutil.Process(self.root.pid)
        return [root, *root.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """CPU time of all processes so far, but of those that have ended"""
        return sum(times.user + times.system for times in (process.cpu_times() for process in self.all()))

    def resident_mb(self) -> float:
        """MB of 10⁶ bytes; a page that processes share counts for each"""
        return sum(process.memory_info().rss for process in self.all()) / 1e6

    def proportional_mb(self) -> float:
        """MB of 10⁶ bytes; a page that processes share is shared out among them. Resident memory where not known."""
        memory = [process.memory_full_info() for process in self.all()]
        return sum(getattr(info, "pss", info.rss) for info in memory) / 1e6

    def end(self) -> None:
        """SIGTERM, and SIGKILL to whatever remains of its session."""
        self.root.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.root.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.root.pid, signal.SIGKILL)
        self.root.wait()
        for pipe in (self.root.stdin, self.root.stdout, self._log):
            if pipe is not None:
                pipe.close()


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind((HOST, 0))
        return listening.getsockname()[1]
