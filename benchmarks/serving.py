"""This server beside sentence-transformers, on the same texts: `make bench`, or python -m benchmarks.serving.

Three contestants: sentence-transformers' `encode` (float32, its own batches, no HTTP), Embedway's engine in Python (no
HTTP), and Embedway over HTTP at 1, 8 and 64 connections, one text a request. They take turns, round by round, each in a
process of its own; figures are medians. The HTTP client runs on the same cores and takes its share of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp
import orjson

from benchmarks.machine import describe_machine
from benchmarks.server_process import ServerProcess
from benchmarks.workloads import Workload, documents, queries

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
CONNECTIONS = (1, 8, 64)


@dataclass(frozen=True, slots=True)
class Figures:
    contestant: str
    workload: str
    texts_per_second: float
    tokens_per_second: float
    p50_ms: float | None = None
    p99_ms: float | None = None


class Contestant:
    """A library in a process of its own: one line of JSON in (texts), one line out (seconds)."""

    def __init__(self, name: str, library: str) -> None:
        self.name = name
        command = [sys.executable, "-m", "benchmarks.library_worker", library]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.seconds(["warm up"] * 64)

    def seconds(self, texts: Sequence[str]) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(list(texts)) + "\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


async def load(url: str, texts: Sequence[str], connections: int) -> tuple[float, list[float]]:
    """Send every text once, one request at a time on each connection; return the seconds of all and of each."""
    waiting = iter([orjson.dumps({"model": MODEL, "input": text, "encoding_format": "base64"}) for text in texts])
    latencies: list[float] = []

    async def connection(session: aiohttp.ClientSession) -> None:
        for body in waiting:
            began = time.perf_counter()
            async with session.post(url, data=body, headers={"Content-Type": "application/json"}) as response:
                await response.read()
                assert response.status == 200
            latencies.append(time.perf_counter() - began)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=connections)) as session:
        began = time.perf_counter()
        await asyncio.gather(*(connection(session) for _ in range(connections)))
        return time.perf_counter() - began, latencies


def quantile_ms(latencies: Sequence[float], q: float) -> float:
    return sorted(latencies)[min(len(latencies) - 1, int(len(latencies) * q))] * 1000


def measure(workload: Workload, rounds: int, server: ServerProcess, libraries: Sequence[Contestant]) -> list[Figures]:
    """Alternate between the contestants for some rounds; each sees every text once a round."""
    num_tokens = server.count_tokens(workload.texts)
    seconds: dict[str, list[float]] = {}
    latencies: dict[str, list[float]] = {}
    for _ in range(rounds):
        for library in libraries:
            seconds.setdefault(library.name, []).append(library.seconds(workload.texts))
        for connections in CONNECTIONS:
            name = f"Embedway HTTP, {connections} connections"
            texts = workload.texts if connections > 1 else workload.texts[: len(workload.texts) // 4]
            took, each = asyncio.run(load(f"{server.url}/v1/embeddings", texts, connections))
            seconds.setdefault(name, []).append(took * len(workload.texts) / len(texts))
            latencies.setdefault(name, []).extend(each)
    return [
        Figures(
            name,
            workload.name,
            len(workload.texts) / statistics.median(took),
            num_tokens / statistics.median(took),
            quantile_ms(latencies[name], 0.5) if name in latencies else None,
            quantile_ms(latencies[name], 0.99) if name in latencies else None,
        )
        for name, took in seconds.items()
    ]


def print_table(figures: Sequence[Figures]) -> None:
    """A Markdown table; the ratio is of texts a second, to sentence-transformers on the same workload."""
    base = {f.workload: f.texts_per_second for f in figures if f.contestant.startswith("sentence-transformers")}
    print("| workload | contestant | texts/s | tokens/s | p50 ms | p99 ms | ratio |")
    print("|---|---|---|---|---|---|---|")
    for f in figures:
        times = " | ".join("" if value is None else f"{value:.1f}" for value in (f.p50_ms, f.p99_ms))
        ratio = f.texts_per_second / base[f.workload]
        print(
            f"| {f.workload} | {f.contestant} | {f.texts_per_second:.0f} | {f.tokens_per_second:.0f} "
            f"| {times} | {ratio:.2f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=1024, help="texts of each workload")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--server-flags", default="", help="further flags of `embedway serve`")
    arguments = parser.parse_args()
    print(describe_machine())
    libraries = [
        Contestant("sentence-transformers encode", "sentence_transformers"),
        Contestant("Embedway engine", "embedway"),
    ]
    server = ServerProcess(MODEL, "--truncate", "end", *arguments.server_flags.split())
    try:
        print(f"Ready {server.seconds_to_ready:.1f} s after the command, memory {server.resident_mb()} MB in all\n")
        figures: list[Figures] = []
        for workload in (documents(arguments.texts), queries(arguments.texts)):
            figures += measure(workload, arguments.rounds, server, libraries)
        print_table(figures)
        print(f"\nMemory of all processes after the run: {server.resident_mb()} MB")
    finally:
        server.stop()
        for library in libraries:
            library.close()


if __name__ == "__main__":
    main()
