"""What the cache and coalescing bring where half of the texts repeat: python -m benchmarks.repeats

Two servers, one with the defaults and one that computes every text (--cache-mb 0), get the same requests in turns, each
round's its own. Of these every second text was sent before: any time before, or just now, so that the first of the two
is still under way, or stands in the same request.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from benchmarks.checkpoints import minilm_folder
from benchmarks.http_load import run_load, write_request
from benchmarks.machine import read_machine
from benchmarks.peers import OURS, PEERS, Server
from benchmarks.running_peer import RunningServer
from benchmarks.texts import Lengths, document_lengths, query_lengths, texts
from benchmarks.workloads import chunks

RECENT = 8
"""Texts back that a repeat which comes at once may be"""
RECENT_SHARE = 0.25
"""Of the repeats"""


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    lengths: Lengths
    connections: int
    texts_per_request: int
    num_texts: int
    """More than are answered in a round"""

    def requests(self, path: str, round_number: int, *, repeats: bool) -> list[bytes]:
        given = (text.text for text in texts(self.lengths, f"repeats of {self.name}, {round_number}, {repeats}"))
        if repeats:
            given = with_repeats(given, random.Random(round_number))
        wanted = itertools.islice(given, self.num_texts)
        return [write_request(path, own) for own in chunks(wanted, self.texts_per_request)]


CACHE_MB = 64
"""The default"""
CASES = (
    Case("documents, 64 connections", document_lengths, 64, 1, 3_000),
    Case("documents, lists of 32, 4 connections", document_lengths, 4, 32, 6_400),
    Case("queries, 64 connections", query_lengths, 64, 1, 12_000),
    Case("queries, lists of 32, 4 connections", query_lengths, 4, 32, 25_600),
)


def with_repeats(new: Iterator[str], rng: random.Random) -> Iterator[str]:
    """Each new text, and after it one that was there before."""
    sent: list[str] = []
    for text in new:
        yield text
        sent.append(text)
        first = max(0, len(sent) - RECENT) if rng.random() < RECENT_SHARE else 0
        yield sent[rng.randrange(first, len(sent))]


@dataclass(frozen=True, slots=True)
class Speeds:
    """Texts a second, of each round"""

    cached: list[float]
    computed: list[float]
    without_repeats: list[float]
    """Of the server with the defaults"""

    def row(self, name: str) -> str:
        cached, computed, plain = (
            statistics.median(speeds) for speeds in (self.cached, self.computed, self.without_repeats)
        )
        rounds = sorted(a / b for a, b in zip(self.cached, self.computed, strict=True))
        return (
            f"| {name} | {computed:.0f} | {cached:.0f} | {statistics.median(rounds):.2f} "
            f"({rounds[0]:.2f}–{rounds[-1]:.2f}) | {plain:.0f} |"
        )


def measure(case: Case, cached: RunningServer, computed: RunningServer, rounds: Sequence[int], seconds: float) -> str:
    path = "/v1/embeddings"

    def speed(server: RunningServer, requests: Sequence[bytes]) -> float:
        result = run_load(server.port, requests, connections=case.connections, seconds=seconds)
        assert len(result.latencies) < len(requests), "the case has too few texts"
        return case.texts_per_request * len(result.latencies) / result.seconds

    speeds = Speeds([], [], [])
    for number in rounds:
        repeating = case.requests(path, number, repeats=True)
        speeds.cached.append(speed(cached, repeating))
        speeds.computed.append(speed(computed, repeating))
        speeds.without_repeats.append(speed(cached, case.requests(path, number, repeats=False)))
    return speeds.row(case.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    arguments = parser.parse_args()
    ours = PEERS[OURS]
    assert isinstance(ours, Server)
    print(read_machine())
    print("| texts a second | every text computed | cache and coalescing | ratio (of rounds) | without repeats |")
    print("|---|---|---|---|---|")
    cached = RunningServer(replace(ours, command=(*ours.command, "--cache-mb", str(CACHE_MB))), minilm_folder())
    try:
        computed = RunningServer(ours, minilm_folder())
        try:
            for case in CASES:
                measure(case, cached, computed, [-1], arguments.seconds / 2)  # warms up
                print(measure(case, cached, computed, range(arguments.rounds), arguments.seconds), flush=True)
        finally:
            computed.stop()
    finally:
        cached.stop()


if __name__ == "__main__":
    main()
