"""How fast queries stay beside bulk: python -m benchmarks.beside_bulk

Clients of one query at a time, four of lists of documents, first each kind alone, then both. Several source trees
(`src` folders), or peers, take turns, round by round, each on a server of its own.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from benchmarks.checkpoints import MINILM, SHAPES, Checkpoints
from benchmarks.http_load import Requests, run_loads, write_request
from benchmarks.load_result import LoadResult
from benchmarks.machine import read_machine
from benchmarks.peers import OURS, PEERS, Server
from benchmarks.running_peer import RunningServer
from benchmarks.texts import Lengths, document_lengths, query_lengths, texts
from benchmarks.workloads import chunks

REPOSITORY = Path(__file__).parent.parent
BULK_CONNECTIONS = 4


@dataclass(frozen=True, slots=True)
class Loads:
    query_connections: int
    documents: int
    """Of a request"""
    seconds: float

    def queries(self, path: str, seed: str) -> Requests:
        return requests(path, query_lengths, 1, 8000, seed, self.query_connections)

    def bulk(self, path: str, seed: str) -> Requests:
        return requests(path, document_lengths, self.documents, 400, seed, BULK_CONNECTIONS)


@dataclass(slots=True)
class Contestant:
    server: RunningServer
    path: str
    alone: list[LoadResult] = field(default_factory=list)
    bulk_alone: list[LoadResult] = field(default_factory=list)
    beside: list[LoadResult] = field(default_factory=list)
    bulk_beside: list[LoadResult] = field(default_factory=list)

    def run(self, loads: Loads, number: int) -> None:
        """The first round warms up."""
        queries, bulk = loads.queries(self.path, f"queries {number}"), loads.bulk(self.path, f"bulk {number}")
        results = [
            *run_loads(self.server.port, [queries], seconds=loads.seconds),
            *run_loads(self.server.port, [bulk], seconds=loads.seconds),
            *run_loads(self.server.port, [queries, bulk], seconds=loads.seconds),
        ]
        if number:
            for kept, result in zip((self.alone, self.bulk_alone, self.beside, self.bulk_beside), results, strict=True):
                kept.append(result)

    def row(self, name: str, documents: int) -> str:
        p99, p99_beside = percentile(self.alone, 99), percentile(self.beside, 99)
        speed, speed_beside = (documents * a_second(results) for results in (self.bulk_alone, self.bulk_beside))
        return (
            f"| {name} | {percentile(self.alone, 50):.1f} / {p99:.1f} "
            f"| {percentile(self.beside, 50):.1f} / {p99_beside:.1f} | {p99_beside / p99:.1f} "
            f"| {a_second(self.alone):.0f} / {a_second(self.beside):.0f} "
            f"| {speed:.1f} | {speed_beside:.1f} | {speed_beside / speed:.2f} |"
        )


def requests(path: str, lengths: Lengths, size: int, count: int, seed: str, connections: int) -> Requests:
    lists = itertools.islice(chunks(texts(lengths, seed), size), count)
    return Requests([write_request(path, [text.text for text in own]) for own in lists], connections)


def percentile(results: Sequence[LoadResult], percent: float) -> float:
    """Milliseconds, the median over the rounds"""
    return statistics.median(float(np.percentile(result.latencies, percent)) * 1000 for result in results)


def a_second(results: Sequence[LoadResult]) -> float:
    """Requests, the median over the rounds"""
    return statistics.median(len(result.latencies) / result.seconds for result in results)


def contestants(sources: Sequence[str], peers: Sequence[str]) -> dict[str, Server]:
    """By name. A source is `NAME=FOLDER`."""
    ours = PEERS[OURS]
    assert isinstance(ours, Server)
    found: dict[str, Server] = {}
    for source in sources:
        name, _, folder = source.partition("=")
        path = f"{Path(folder).absolute()}:{REPOSITORY}"
        found[name] = replace(ours, variables={**ours.variables, "PYTHONPATH": path})
    for name in peers or (() if sources else (OURS,)):
        peer = PEERS[name]
        assert isinstance(peer, Server), f"{name} is no server"
        found[name] = peer
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", metavar="NAME=FOLDER")
    parser.add_argument("--peers", nargs="*", default=[])
    parser.add_argument("--model", choices=SHAPES, default=MINILM)
    parser.add_argument("--queries", type=int, default=4, help="Connections that send them")
    parser.add_argument("--documents", type=int, default=64, help="Of a request of bulk")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0)
    arguments = parser.parse_args()
    loads = Loads(arguments.queries, arguments.documents, arguments.seconds)
    print(read_machine())
    print(
        "| | queries alone, p50 / p99 ms | beside bulk | p99 ratio | queries/s | documents/s alone | beside | ratio |"
    )
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        model = Checkpoints(Path(folder)).folder_of(arguments.model)
        running: dict[str, Contestant] = {}
        for name, server in contestants(arguments.sources, arguments.peers).items():
            running[name] = Contestant(RunningServer(server, model), server.path)
            stack.callback(running[name].server.stop)
        for number in range(arguments.rounds + 1):
            for contestant in list(running.values())[:: 1 if number % 2 else -1]:
                contestant.run(loads, number)
        for name, contestant in running.items():
            print(contestant.row(name, arguments.documents))


if __name__ == "__main__":
    main()
