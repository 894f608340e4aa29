"""How fast queries stay beside bulk: python -m benchmarks.beside_bulk

Four clients of one query at a time, four of 64 documents at a time, first each kind alone, then both, in turns.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Sequence

import numpy as np

from benchmarks.checkpoints import minilm_folder
from benchmarks.http_load import Requests, run_loads, write_request
from benchmarks.load_result import LoadResult
from benchmarks.machine import read_machine
from benchmarks.peers import PEERS, Server
from benchmarks.running_peer import RunningServer
from benchmarks.texts import Lengths, document_lengths, query_lengths, texts
from benchmarks.workloads import chunks

CONNECTIONS = 4
DOCUMENTS = 64
"""Of a request"""


def requests(path: str, lengths: Lengths, size: int, count: int, seed: str) -> Requests:
    lists = itertools.islice(chunks(texts(lengths, seed), size), count)
    return Requests([write_request(path, [text.text for text in own]) for own in lists], CONNECTIONS)


def percentile(results: Sequence[LoadResult], percent: float) -> float:
    """Milliseconds, the median over the rounds"""
    return statistics.median(float(np.percentile(result.latencies, percent)) * 1000 for result in results)


def documents_per_second(results: Sequence[LoadResult]) -> float:
    return statistics.median(DOCUMENTS * len(result.latencies) / result.seconds for result in results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="*", default=["embedway"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0)
    arguments = parser.parse_args()
    print(read_machine())
    print("| | queries alone, p50 / p99 ms | beside bulk | p99 ratio | documents/s alone | beside queries | ratio |")
    print("|---|---|---|---|---|---|---|")
    for name in arguments.peers:
        peer = PEERS[name]
        assert isinstance(peer, Server)
        server = RunningServer(peer, minilm_folder())
        try:
            print(row(name, server.port, peer.path, arguments.rounds, arguments.seconds), flush=True)
        finally:
            server.stop()


def row(name: str, port: int, path: str, rounds: int, seconds: float) -> str:
    alone: list[LoadResult] = []
    bulk_alone: list[LoadResult] = []
    beside: list[LoadResult] = []
    bulk_beside: list[LoadResult] = []
    for i in range(rounds + 1):
        queries = requests(path, query_lengths, 1, 8000, f"queries {i}")
        bulk = requests(path, document_lengths, DOCUMENTS, 400, f"bulk {i}")
        results = [
            *run_loads(port, [queries], seconds=seconds),
            *run_loads(port, [bulk], seconds=seconds),
            *run_loads(port, [queries, bulk], seconds=seconds),
        ]
        if i:  # the first round warms up
            for kept, result in zip((alone, bulk_alone, beside, bulk_beside), results, strict=True):
                kept.append(result)
    p99, p99_beside = percentile(alone, 99), percentile(beside, 99)
    speed, speed_beside = documents_per_second(bulk_alone), documents_per_second(bulk_beside)
    return (
        f"| {name} | {percentile(alone, 50):.1f} / {p99:.1f} | {percentile(beside, 50):.1f} / {p99_beside:.1f} "
        f"| {p99_beside / p99:.1f} | {speed:.0f} | {speed_beside:.0f} | {speed_beside / speed:.2f} |"
    )


if __name__ == "__main__":
    main()
