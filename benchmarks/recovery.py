"""How long a killed engine is missed: python -m benchmarks.recovery

In turns: a cold start of the server, from the command to its first vector, and then a kill -9 of its engine, from the
kill to the next vector, which must be right. Who asks is told to try again, or waits, until then.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import numpy.typing as npt
import psutil

from benchmarks.checkpoints import minilm_folder
from benchmarks.http_load import RequestFailed
from benchmarks.machine import read_machine
from benchmarks.peers import PEERS, Server
from benchmarks.running_peer import POLL_SECONDS, RunningServer

TEXTS = ("what is measured here",)
ALLOWED_SECONDS = 1.0
"""By which a recovery may be longer than a cold start"""
CLOSE = 1e-3


def engine_of(server: RunningServer) -> psutil.Process:
    [engine] = [process for process in server.processes.all() if "embedway.engine.loop" in process.cmdline()]
    return engine


def recovery_seconds(server: RunningServer, expected: npt.NDArray[np.float32]) -> float:
    """From the kill to the next vector."""
    engine = engine_of(server)
    engine.kill()
    began = time.perf_counter()
    while (vectors := vectors_or_none(server)) is None:
        time.sleep(POLL_SECONDS)
    seconds = time.perf_counter() - began
    assert np.allclose(vectors, expected, atol=CLOSE), "a wrong vector"
    assert engine_of(server).pid != engine.pid
    return seconds


def vectors_or_none(server: RunningServer) -> npt.NDArray[np.float32] | None:
    """None: a 503."""
    try:
        return server.embed(TEXTS)
    except RequestFailed:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    peer = PEERS["embedway"]
    assert isinstance(peer, Server)
    cold: list[float] = []
    recovered: list[float] = []
    for _ in range(arguments.rounds):
        server = RunningServer(peer, minilm_folder())
        try:
            cold.append(server.seconds_to_first_answer)
            recovered.append(recovery_seconds(server, server.embed(TEXTS)))
        finally:
            server.stop()
    print(read_machine())
    print("| | median s | longest s |")
    print("|---|---|---|")
    for name, seconds in (("cold start", cold), ("kill -9 to the next vector", recovered)):
        print(f"| {name} | {statistics.median(seconds):.2f} | {max(seconds):.2f} |")
    excess = [after - before for before, after in zip(cold, recovered, strict=True)]
    print(f"Recovery less cold start, at most {max(excess):+.2f} s; {ALLOWED_SECONDS:+g} s is allowed.")


if __name__ == "__main__":
    main()
